"""An in-repo Kubernetes API server, Job controller and kubelet for tests, and a proxy that kills and disturbs."""
