// A command for tests. Built with componentize-js. Arguments: get URL | size URL | post URL TEXT | many URL N
// or files FROM TO: counts the lines of every file in a folder, writes the sum into another and reads it back.
import { getArguments } from "wasi:cli/environment@0.2.12";
import { getStdout } from "wasi:cli/stdout@0.2.12";
import { getDirectories } from "wasi:filesystem/preopens@0.2.12";

function print(text) {
  const out = getStdout();
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; at += 4096) out.blockingWriteAndFlush(bytes.subarray(at, at + 4096));
}

function folder(wanted) {
  return getDirectories().find(([, path]) => path === wanted)[0];
}

function read(directory, name) {
  const [bytes] = directory.openAt({}, name, {}, { read: true }).read(65536n, 0n);
  return new TextDecoder().decode(bytes);
}

function countLines(from, to) {
  const [source, target] = [folder(from), folder(to)];
  const entries = source.readDirectory();
  let lines = 0;
  for (let entry; (entry = entries.readDirectoryEntry()); )
    if (entry.type === "regular-file") lines += read(source, entry.name).split("\n").length - 1;
  const sum = target.openAt({}, "javascript", { create: true, truncate: true }, { write: true });
  sum.write(new TextEncoder().encode(`${lines}\n`), 0n);
  return read(target, "javascript");
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
  if (command === "files") {
    return countLines(url, extra);
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
