"""Asks a server over TLS by gRPC's own library, which knows of its messages only what reflection tells.

Arguments: HOST:PORT, and the file with the certificate of the server's authority. Prints JSON.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# The messages of reflection itself, of which nothing is known before: numbers of their fields in
# grpc/reflection/v1/reflection.proto.
FILE_BY_FILENAME, FILE_CONTAINING_SYMBOL, LIST_SERVICES = 3, 4, 7
FILES_ANSWER, SERVICES_ANSWER = 4, 6
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
SECONDS = 30


def varint(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            return value, at


def fields(data, wanted):
    """The fields of this number in a message, which are messages or text."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        length, at = varint(data, at)
        if tag & 7 != 2:
            # A number, and no length.
            continue
        if tag >> 3 == wanted:
            yield data[at : at + length]
        at += length


def question(field, text):
    return bytes([field << 3 | 2, len(text)]) + text.encode()


def ask(channel, field, text, answer):
    """The parts of the answer of this kind to one question."""
    reflection = channel.stream_stream(REFLECTION)
    (said,) = reflection(iter([question(field, text)]), timeout=SECONDS)
    (found,) = fields(said, answer)
    return list(fields(found, 1))


def schema(channel, services):
    """All that reflection tells of these services."""
    files = {}

    def take(told):
        for text in told:
            file = descriptor_pb2.FileDescriptorProto.FromString(text)
            files[file.name] = file
            for other in file.dependency:
                if other not in files:
                    take(ask(channel, FILE_BY_FILENAME, other, FILES_ANSWER))

    for service in services:
        take(ask(channel, FILE_CONTAINING_SYMBOL, service, FILES_ANSWER))
    pool = descriptor_pool.DescriptorPool()

    def add(name):
        file = files.pop(name, None)
        if file:
            for other in file.dependency:
                add(other)
            pool.Add(file)

    for name in list(files):
        add(name)
    return pool


def message(pool, descriptor):
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


def call(channel, pool, service, name, said):
    """The answer to a call of one message, or the name of its status."""
    method = pool.FindServiceByName(service).FindMethodByName(name)
    request, response = (message(pool, each) for each in (method.input_type, method.output_type))
    stub = channel.unary_unary(
        f"/{service}/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    try:
        return stub(request(**said), timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code().name


def health(channel, pool, service):
    answer = call(channel, pool, "grpc.health.v1.Health", "Check", {"service": service})
    if isinstance(answer, str):
        return answer
    return answer.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[answer.status].name


def main(address, authority):
    with open(authority, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    with grpc.secure_channel(address, credentials) as channel:
        told = ask(channel, LIST_SERVICES, "", SERVICES_ANSWER)
        services = sorted(text.decode() for each in told for text in fields(each, 1))
        pool = schema(channel, services)
        methods = {
            service: [method.name for method in pool.FindServiceByName(service).methods] for service in services
        }
        asked = ["", "vmcast.v1.Registry", "vmcast.v1.Identity", "vmcast.v1.Nothing"]
        print(
            json.dumps(
                {
                    "methods": methods,
                    "health": {service: health(channel, pool, service) for service in asked},
                    "nodes": str(call(channel, pool, "vmcast.v1.Registry", "ListNodes", {})),
                }
            )
        )


main(*sys.argv[1:])
