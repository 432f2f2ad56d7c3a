module evolution/tests/tools/etcd

go 1.24.0

require go.etcd.io/etcd/server/v3 v3.6.7

replace go.etcd.io/etcd => ./FORBIDDEN_DEPENDENCY
replace go.etcd.io/tests/v3 => ./FORBIDDEN_DEPENDENCY
