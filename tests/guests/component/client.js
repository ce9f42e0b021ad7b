// A command for tests. Built with componentize-js. Arguments: get URL | size URL | post URL TEXT | many URL N
import { getArguments } from "wasi:cli/environment@0.2.12";
import { getStdout } from "wasi:cli/stdout@0.2.12";

function print(text) {
  const out = getStdout();
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; at += 4096) out.blockingWriteAndFlush(bytes.subarray(at, at + 4096));
}

async function perform(command, url, extra) {
  if (command === "get") {
    const response = await fetch(url);
    return `${response.status} ${response.headers.get("content-type")} ${await response.text()}`;
  }
  if (command === "size") {
    return `${(await (await fetch(url)).arrayBuffer()).byteLength}`;
  }
  if (command === "post") {
    const response = await fetch(url, { method: "POST", body: extra, headers: { "content-type": "text/x" } });
    return `${response.status} ${await response.text()}`;
  }
  if (command === "many") {
    const responses = await Promise.all(Array.from({ length: Number(extra) }, () => fetch(url)));
    return (await Promise.all(responses.map((response) => response.text()))).join();
  }
  return "hello from js " + JSON.stringify(getArguments());
}

export const run = {
  async run() {
    try {
      print(await perform(...getArguments().slice(1)));
    } catch (error) {
      print(`failed: ${error}`);
    }
  },
};
