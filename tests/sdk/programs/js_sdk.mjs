// Calls the binding `multi` with Dapr's JavaScript SDK, over the protocol that the first argument names.
import { createRequire } from "node:module";
const { DaprClient, CommunicationProtocolEnum } = createRequire(process.env.SDK + "/")("@dapr/dapr");

const grpc = process.argv[2] === "grpc";
const options = {
  daprHost: "127.0.0.1",
  daprPort: grpc ? process.env.DAPR_GRPC_PORT : process.env.DAPR_HTTP_PORT,
  communicationProtocol: grpc ? CommunicationProtocolEnum.GRPC : CommunicationProtocolEnum.HTTP,
  maxBodySizeMb: 8,
};
const out = {};
const client = new DaprClient({ ...options, daprApiToken: process.env.DAPR_API_TOKEN });
await client.start();
out.ready = true;
// Over gRPC the SDK answers with the reply's message, whose data is bytes.
const call = async (data, metadata) => {
  const reply = await client.binding.send("multi", "execute", data, metadata);
  return grpc ? Buffer.from(reply.data).toString() : reply;
};
out.text = await call("text");
out.object = await call({ a: 1 });
if (grpc) out.object = JSON.parse(out.object);
out.metadata = await call("x", { args: "dump,a" });
out.large = JSON.stringify(await call("x".repeat(3 << 20))).length - 2;
try {
  await call("", { args: "exit,3" });
} catch (error) {
  out.error = String(error.message ?? error);
}
out.id = (await client.metadata.get()).id;
out.set = await client.metadata.set("sdk", "js");
out.health = await client.health.isHealthy();
await client.stop();
console.log(JSON.stringify(out));
process.exit(0);
