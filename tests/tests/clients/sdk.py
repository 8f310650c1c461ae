"""The Docker SDK for Python against a swarm manager: a service's whole life, as scripts write it."""

import sys
import time

import docker
from docker.types import EndpointSpec, RestartPolicy, ServiceMode


def wait(what, probe, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = probe()
        if value:
            return value
        time.sleep(0.1)
    sys.exit(f"{what}: not within {seconds} s")


client = docker.from_env()
version = client.version()
assert version["ApiVersion"] == client.api.api_version, (version, client.api.api_version)
assert client.ping()
info = client.info()["Swarm"]
assert info["LocalNodeState"] == "active" and info["ControlAvailable"], info
assert client.swarm.attrs["ID"] == info["Cluster"]["ID"]
assert client.swarm.id == info["Cluster"]["ID"]

nodes = client.nodes.list()
assert len(nodes) == info["Nodes"] == 3, nodes
assert client.nodes.list(filters={"role": "worker"}) == []
one = client.nodes.get(info["NodeID"])
one.update({**one.attrs["Spec"], "Labels": {"from": "sdk"}})
one.reload()
assert one.attrs["Spec"]["Labels"] == {"from": "sdk"}
one.update({**one.attrs["Spec"], "Labels": {}})

network = client.networks.create("sdk-net", driver="overlay", attachable=True)
network.reload()
assert network.attrs["Scope"] == "swarm" and network.attrs["Attachable"], network.attrs

service = client.services.create(
    "skep-test",
    name="sdk",
    labels={"a": "b"},
    container_labels={"c": "d"},
    env=["NUMBER=1"],
    mode=ServiceMode("replicated", 2),
    networks=["sdk-net"],
    endpoint_spec=EndpointSpec(ports={18081: 80}),
    restart_policy=RestartPolicy("any", delay=100_000_000),
)
wait("two tasks", lambda: len([t for t in service.tasks({"desired-state": "running"}) if t["Status"]["State"] == "running"]) == 2)
assert client.services.list(filters={"label": "a=b"})[0].id == service.id
assert client.services.list(filters={"name": "sd"}, status=True)[0].attrs["ServiceStatus"]["RunningTasks"] == 2
assert client.services.list(filters={"label": "a=x"}) == []
assert service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["NUMBER=1"]

service.reload()
assert service.scale(1)

def settled():
    """Whether no update is under way or about to begin: each of its steps is a new version of the service."""
    service.reload()
    before = service.version
    time.sleep(1)
    service.reload()
    return service.version == before and service.attrs.get("UpdateStatus", {}).get("State") != "updating"


wait("the end of the update", settled)
assert service.attrs["Spec"]["Mode"] == {"Replicated": {"Replicas": 1}}
stale = service.version
service.update(env=["NUMBER=2"], fetch_current_spec=True)
service.reload()
spec = service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]
assert spec["Env"] == ["NUMBER=2"] and spec["Labels"] == {"c": "d"}, spec
try:
    client.api.update_service(service.id, stale, name="sdk", task_template=service.attrs["Spec"]["TaskTemplate"])
    sys.exit("a stale version was taken")
except docker.errors.APIError as error:
    assert error.status_code == 500 and "update out of sequence" in str(error), error
wait("the end of the update", settled)
assert service.force_update()

wait("a log line", lambda: b"".join(service.logs(stdout=True, stderr=True)) is not None)

try:
    client.services.create("skep-test", name="sdk")
    sys.exit("a name was given twice")
except docker.errors.APIError as error:
    assert error.status_code == 409, error
try:
    client.services.list(filters={"no": "such"})
    sys.exit("an unknown filter was taken")
except docker.errors.APIError as error:
    assert error.status_code == 400 and "invalid filter 'no'" in str(error), error

begin = int(time.time()) - 300
events = client.events(since=begin, until=int(time.time()) + 1, decode=True, filters={"type": "service"})
seen = [event["Action"] for event in events if event["Actor"]["ID"] == service.id]
assert seen[0] == "create" and "update" in seen, seen

service.remove()
try:
    client.services.get("sdk")
    sys.exit("it is there after its removal")
except docker.errors.NotFound:
    pass
wait("the network's last task", lambda: not [t for t in client.api.tasks() if t["ServiceID"] == service.id and t["Status"]["State"] == "running"])


def remove_network():
    try:
        network.remove()
        return True
    except docker.errors.APIError:
        return False


wait("removal of the network", remove_network)
print("ok")
