"""What a source on a cluster contains, told in one word without reading it: who may list it sees it change."""

import urllib3
from minio.error import MinioException, S3Error

from evolution.api.locations import hub_location
from evolution.plan.stage import canonical_json, sha256
from evolution.store import s3
from evolution.store.open import bucket_and_prefix
from evolution.store.s3_source import SOURCE_IS_WRONG, listed
from evolution.store.source_files import SourceUnusable


def visible_revision(uri: str) -> str:
    """Digest over names, sizes and ETags below s3://bucket/prefix; of hf://…@commit, which never changes, over itself.

    Raises:
        SourceUnusable: nothing there, not listable with the credentials of this process, or nothing that can be seen
            from here, as a volume claim.
        StoreUnavailable: the S3 server does not answer.
        StoreRefused: it does not accept the credentials, or there are none.
    """
    if hub_location(uri):
        return sha256(uri.encode())
    if not uri.startswith("s3://"):
        raise SourceUnusable(f"{uri} can be seen by a run's workers alone; give s3://bucket/prefix")
    bucket, prefix = bucket_and_prefix(uri)
    try:
        found = sorted((o.key, o.size, o.etag) for o in listed(s3.client(uri), bucket, prefix, uri))
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        failure = s3.store_error(error, uri, "cannot be listed", "s3:ListBucket")
        if isinstance(error, S3Error) and error.code in SOURCE_IS_WRONG:
            raise SourceUnusable(str(failure)) from error
        raise failure from error
    if not found:
        raise SourceUnusable(f"{uri}: there is no object of that name, nor one below it")
    return sha256(canonical_json(found))
