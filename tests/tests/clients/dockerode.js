// dockerode against a swarm manager, with paths without a version, as Dokploy and CapRover use it.
const assert = require("assert");
const Docker = require("dockerode");

const docker = new Docker({ socketPath: process.env.DOCKER_HOST.replace("unix://", "") });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(what, probe) {
  const end = Date.now() + 60000;
  while (Date.now() < end) {
    if (await probe()) return;
    await pause(100);
  }
  throw new Error(`${what}: not within 60 s`);
}

async function status(promise) {
  try {
    await promise;
  } catch (error) {
    return error.statusCode;
  }
  return 200;
}

async function main() {
  const info = await docker.info();
  assert.strictEqual(info.Swarm.LocalNodeState, "active");
  const swarm = await docker.swarmInspect();
  assert.ok(swarm.JoinTokens.Worker.startsWith("SWMTKN-1-"));
  const nodes = await docker.listNodes();
  assert.strictEqual(nodes.length, 3);
  for (const node of nodes) {
    assert.ok(node.Status.Addr && node.Status.Addr !== "0.0.0.0", node.Status.Addr);
    assert.ok(node.ManagerStatus.Addr.endsWith(":2377"));
  }
  assert.strictEqual(nodes.filter((node) => node.ManagerStatus.Leader).length, 1);

  // An old tool names networks in the service's own list.
  const network = await docker.createNetwork({ Name: "rode-net", Driver: "overlay", Attachable: true });
  const settings = {
    Name: "rode",
    TaskTemplate: { ContainerSpec: { Image: "skep-test" } },
    Networks: [{ Target: "rode-net" }],
    Mode: { Replicated: { Replicas: 1 } },
    EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 18082, PublishMode: "host" }] },
  };
  const created = await docker.createService(settings);
  const service = docker.getService(created.id || created.ID);
  const running = async () => {
    const filters = JSON.stringify({ service: ["rode"], "desired-state": ["running"] });
    const tasks = await docker.listTasks({ filters });
    return tasks.filter((task) => task.Status.State === "running");
  };
  await until("a task", async () => (await running()).length === 1);
  const [task] = await running();
  const attached = task.NetworksAttachments.map((attachment) => attachment.Network.Spec.Name);
  assert.ok(attached.includes("rode-net"), attached);
  for (const attachment of task.NetworksAttachments) {
    for (const address of attachment.Addresses) assert.match(address, /^[0-9.]+\/[0-9]+$/);
  }

  // Dokploy: inspect, then update with the whole spec and the next ForceUpdate.
  const before = await service.inspect();
  await service.update({
    version: before.Version.Index,
    ...settings,
    TaskTemplate: { ...settings.TaskTemplate, ForceUpdate: (before.Spec.TaskTemplate.ForceUpdate || 0) + 1 },
  });
  await until("a new task", async () => {
    const now = await running();
    return now.length === 1 && now[0].ID !== task.ID;
  });
  assert.strictEqual(await status(service.update({ version: before.Version.Index, ...settings })), 500);
  assert.strictEqual(await status(docker.createService(settings)), 409);
  assert.strictEqual(await status(docker.getService("nobody").inspect()), 404);

  const logs = await service.logs({ stdout: true, stderr: true });
  assert.ok(logs !== undefined);
  await service.remove();
  assert.strictEqual(await status(docker.getService("rode").inspect()), 404);
  await until("removal of the network", async () => (await status(network.remove())) === 200);
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
