"""A real S3 server for a test module: moto's, in a thread, with a bucket; the environment says where it is and who asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection

import boto3
import pytest
import s3fs
from moto.server import ThreadedMotoServer

BUCKET = "lake"


@dataclass(frozen=True)
class Lake:
    """A running server."""

    port: int

    def put(self, objects: dict[str, bytes]) -> None:
        """Into the bucket, by key."""
        client = boto3.client("s3")
        for key, body in objects.items():
            client.put_object(Bucket=BUCKET, Key=key, Body=body)
        client.close()

    def ask(self, path: str, body: str) -> None:
        """Something of moto's own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, body)
        assert connection.getresponse().status == 200
        connection.close()


@contextmanager
def s3(free_port: Callable[..., int]) -> Iterator[Lake]:
    """The server, until the block ends."""
    lake = Lake(free_port())
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=lake.port, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{lake.port}", "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
        }.items():  # fmt: skip
            environment.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield lake
        lake.ask("/moto-api/reset", "")
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
