"""Calls a broker as clients of the first version do: with plain stubs made from legacy.proto, and grpcio's defaults.

Usage: legacy_client.py PUBLISH_ADDRESS CONSUME_ADDRESS STUBS_DIRECTORY

Prints one JSON document a line for each check: its name, and what was seen. What it should be stands in main.rs.
"""

import importlib
import json
import pathlib
import sys
import time

import grpc
import grpc_tools
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from grpc_tools import protoc

# Seconds after which a call has failed.
TIMEOUT = 20

# Large enough for the broker not to keep it beside its metadata, and over gRPC's default limit of 4 MiB.
LARGE = 5 << 20


def make_stubs(directory):
    """Generates the stubs, as a user of the first version did, and gives the two modules."""
    here = pathlib.Path(__file__).parent
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    arguments = [
        "protoc", f"-I{here}", f"-I{well_known}", f"--python_out={directory}", f"--grpc_python_out={directory}",
        "legacy.proto",
    ]
    if protoc.main(arguments) != 0:
        sys.exit("the stubs cannot be made")
    sys.path.insert(0, directory)
    return importlib.import_module("legacy_pb2"), importlib.import_module("legacy_pb2_grpc")


def report(check, saw):
    print(json.dumps({"check": check, "saw": saw}), flush=True)


def refusal(call):
    """The status of a call that is expected to fail, and the fields that its details name."""
    try:
        answer = call()
        # Streams fail when they are read.
        if hasattr(answer, "__next__"):
            next(answer, None)
    except grpc.RpcError as error:
        fields = []
        status = rpc_status.from_call(error)
        for detail in status.details if status else []:
            request = error_details_pb2.BadRequest()
            if detail.Unpack(request):
                fields += [violation.field for violation in request.field_violations]
        return {"code": error.code().name, "fields": fields}
    return {"code": "OK", "fields": []}


class Client:
    def __init__(self, publish_address, consume_address, pb, stubs):
        self.pb = pb
        self.ingress = stubs.IngressServiceStub(channel(publish_address))
        self.egress = stubs.EgressServiceStub(channel(consume_address))

    def publish(self, subject, data=b"", headers=None):
        return self.ingress.Publish(self.pb.PublishRequest(subject=subject, data=data, headers=headers), timeout=TIMEOUT)

    def fetch(self, subject, durable, batch_size=0):
        request = self.pb.FetchRequest(subject=subject, durable_name=durable, batch_size=batch_size)
        return list(self.egress.Fetch(request, timeout=TIMEOUT))

    def fetched(self, subject, durable, batch_size=0):
        return [message.sequence for message in self.fetch(subject, durable, batch_size)]

    def last(self, subject):
        request = self.pb.GetLastSequenceRequest(subject=subject)
        return self.egress.GetLastSequence(request, timeout=TIMEOUT).last_sequence

    def ack(self, durable, subject, sequence):
        request = self.pb.AckRequest(durable_name=durable, subject=subject, sequence=sequence)
        return self.egress.AckMessage(request, timeout=TIMEOUT)

    def subscribe(self, subject, durable="", start=None):
        request = self.pb.SubscribeRequest(subject=subject, durable_name=durable, start_sequence=start)
        return self.egress.Subscribe(request, timeout=TIMEOUT)


def channel(address):
    # A proxy of the environment has no business on loopback.
    return grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])


def check_publish(client):
    response = client.publish("orders.new", b"one", {"content-type": "text/plain", "länge": "größer"})
    fields = {field.name: getattr(response, field.name) for field in response.DESCRIPTOR.fields}
    report("publish answers with the first sequence", fields)
    report("publish takes no data", client.publish("orders.new").sequence)
    report("publish takes a subject in Unicode", client.publish("événements.日本", "é".encode()).sequence)
    report("last sequence", [client.last(subject) for subject in ("orders.new", "événements.日本", "unknown")])


def check_fetch(client):
    messages = client.fetch("orders.new", "nobody")
    report("fetch gives what was published", [
        {"subject": m.subject, "sequence": m.sequence, "data": m.data.decode(), "headers": dict(m.headers)}
        for m in messages
    ])
    ages = [time.time() - message.timestamp.ToNanoseconds() / 1e9 for message in messages]
    report("timestamps are of now", all(-5 < age < 60 for age in ages))
    report("fetch gives Unicode", [m.subject + " " + m.data.decode() for m in client.fetch("événements.日本", "nobody")])
    for number in range(3, 15):
        client.publish("orders.new", str(number).encode())
    report("fetch gives ten when the batch size is 0", client.fetched("orders.new", "shop"))
    report("fetch changes nothing", client.fetched("orders.new", "shop"))
    report("fetch gives at most the batch size", client.fetched("orders.new", "shop", 3))
    report("fetch of an unknown subject is empty", client.fetched("unknown", "shop"))


def check_ack(client):
    response = client.ack("shop", "orders.new", 4)
    report("ack succeeds", {"success": response.success, "error_message": response.error_message})
    report("fetch starts after the acked position", client.fetched("orders.new", "shop"))
    report("other consumers stay where they are", client.fetched("orders.new", "other", 1))
    report("an ack of the past succeeds", client.ack("shop", "orders.new", 2).success)
    report("positions never move backwards", client.fetched("orders.new", "shop", 1))
    report("an ack beyond the end is refused", refusal(lambda: client.ack("shop", "orders.new", 15)))
    report("a refused ack moves nothing", client.fetched("orders.new", "shop", 1))
    client.ack("shop", "orders.new", 14)
    report("nothing is left after an ack of the last", client.fetched("orders.new", "shop"))
    client.publish("orders.new", b"15")
    report("the next message is there again", client.fetched("orders.new", "shop"))


def until(notifications, sequence):
    """The first notification, and whether their sequences rose until `sequence` was told."""
    seen = []
    for notification in notifications:
        seen.append(notification.sequence)
        if notification.sequence >= sequence:
            break
    rising = seen == sorted(set(seen))
    return {"first": seen[0], "last": seen[-1], "rising": rising, "subject": notification.subject}


def check_subscribe(client):
    for _ in range(3):
        client.publish("news", b"x")
    notifications = client.subscribe("news")
    report("subscribe tells of what is there", until(notifications, 3))
    client.publish("news", b"x")
    client.publish("news", b"x")
    seen = until(notifications, 5)
    report("subscribe tells the latest sequence", {"last": seen["last"], "rising": seen["rising"]})
    notifications.cancel()

    # Were the past told of, it would come first.
    notifications = client.subscribe("news", start=5)
    beyond = client.subscribe("news", start=6)
    client.ack("reader", "news", 5)
    durable = client.subscribe("news", "reader")
    both = client.subscribe("news", "reader", 3)
    time.sleep(0.3)
    client.publish("news", b"x")
    report("start_sequence means only beyond it", until(notifications, 6))
    report("a durable hears only beyond its position", until(durable, 6))
    report("the further of both counts", until(both, 6))
    client.publish("news", b"x")
    report("start_sequence may lie ahead", until(beyond, 7))
    report("a durable's lag is told at once", until(client.subscribe("news", "reader"), 7)["first"])


def check_refusals(client):
    long = "x" * 256
    calls = {
        "publish without a subject": lambda: client.publish(""),
        "publish to a wildcard": lambda: client.publish("orders.*"),
        "publish to a wildcard of many": lambda: client.publish("orders.>"),
        "publish to a subject of 256 bytes": lambda: client.publish(long),
        "publish with a reserved header": lambda: client.publish("orders.new", headers={"Mts-Reason": "x"}),
        "publish with two faults": lambda: client.publish("", headers={"Mts-Reason": "x"}),
        "fetch without a subject": lambda: client.fetch("", "shop"),
        "fetch of half a wildcard": lambda: client.fetch("orders.n*", "shop"),
        "fetch of a negative batch": lambda: client.fetch("orders.new", "shop", -1),
        "subscribe without a subject": lambda: client.subscribe(""),
        "last sequence of a wildcard": lambda: client.last("orders.>"),
        "ack without a name": lambda: client.ack("", "orders.new", 1),
        "ack without a subject": lambda: client.ack("shop", "", 1),
        "ack of an unknown subject": lambda: client.ack("shop", "unknown", 1),
    }
    for name, call in calls.items():
        report(name, refusal(call))


def check_large(client):
    published = client.publish("large", bytes(LARGE))
    report("a large message has a place", {"sequence": published.sequence, "placed": published.object_name != ""})
    client.publish("large", b"after")
    messages = [(message.sequence, len(message.data)) for message in client.fetch("large", "shop")]
    report("a message over the default limit does not block the rest", messages)


def check_health(address):
    health = health_pb2_grpc.HealthStub(channel(address))
    for service in ("", "minitoolstream.IngressService", "minitoolstream.EgressService"):
        response = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        report(f"health of '{service}'", health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
    unknown = health_pb2.HealthCheckRequest(service="unknown")
    report("health of an unknown service", refusal(lambda: health.Check(unknown, timeout=TIMEOUT))["code"])


def list_services(address, version):
    """What `grpcurl ADDRESS list` asks; both versions of the service have the same messages."""
    call = channel(address).stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=TIMEOUT)
    return sorted(service.name for answer in answers for service in answer.list_services_response.service)


def check_reflection(address, pb):
    for version in ("v1", "v1alpha"):
        report(f"services listed by reflection {version}", list_services(address, version))
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel(address)))
    report("what the broker's own description lacks or changed", list(differences(pb.DESCRIPTOR, pool)))


def differences(legacy, pool):
    """Whatever of the frozen file the broker describes otherwise."""
    compared = ("number", "type", "is_repeated", "has_presence")
    for message in legacy.message_types_by_name.values():
        served = pool.FindMessageTypeByName(message.full_name)
        for field in message.fields:
            found = served.fields_by_name.get(field.name)
            if found is None:
                yield f"{field.full_name} is missing"
                continue
            for name in compared:
                if getattr(field, name) != getattr(found, name):
                    yield f"{field.full_name}: {name} is {getattr(found, name)}"
    for service in legacy.services_by_name.values():
        served = pool.FindServiceByName(service.full_name)
        for method in service.methods:
            found = served.methods_by_name.get(method.name)
            if found is None:
                yield f"{method.full_name} is missing"
            elif signature(method) != signature(found):
                yield f"{method.full_name} is {signature(found)}"


def signature(method):
    return (
        method.input_type.full_name, method.client_streaming, method.output_type.full_name, method.server_streaming,
    )


def main():
    publish_address, consume_address, directory = sys.argv[1:]
    pb, stubs = make_stubs(directory)
    client = Client(publish_address, consume_address, pb, stubs)
    check_publish(client)
    check_fetch(client)
    check_ack(client)
    check_subscribe(client)
    check_refusals(client)
    check_large(client)
    for address in (publish_address, consume_address):
        check_health(address)
        check_reflection(address, pb)


main()
