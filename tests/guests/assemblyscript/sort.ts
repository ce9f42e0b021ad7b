// Sorts the lines of stdin by code unit; `sort -r` the other way round.
import { args, readAll, writeText } from "../../../deploy/quickstart/guests/wasi";

export function _start(): void {
  const reverse = args().includes("-r");
  const text = String.UTF8.decode(readAll().buffer);
  const lines = text.endsWith("\n") ? text.slice(0, -1).split("\n") : text.split("\n");
  lines.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  if (reverse) lines.reverse();
  writeText(1, lines.join("\n") + "\n");
}
