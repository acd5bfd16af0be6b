"""The clustered store: etcd, spoken to by gRPC.

`rpc_pb2.py` and `rpc_pb2.pyi` are made from `rpc.proto` with grpcio-tools, which only those need who change it::

    python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src src/sourcelair/store/etcd/rpc.proto
"""

from sourcelair.store.etcd.address import EtcdAddress, parse_address
from sourcelair.store.etcd.claim import Holder
from sourcelair.store.etcd.store import EtcdStore
from sourcelair.store.etcd.stores import EtcdStores

__all__ = ["EtcdAddress", "EtcdStore", "EtcdStores", "Holder", "parse_address"]
