// Filters a JSON array: arguments FIELD OP VALUE, OP one of = != < <= > >=. What comes in as the request's data goes
// out again, element by element and byte by byte, without the objects whose FIELD does not compare so.
// Both numbers: compared as numbers; otherwise = and != compare the text. Exit code 2: wrong arguments; 3: not such JSON.
import { args, proc_exit, readAll, write, writeText } from "./wasi";

let json: Uint8Array = new Uint8Array(0);
let at: i32 = 0;

function fail(code: u32, why: string): void {
  writeText(2, "filter: " + why + "\n");
  proc_exit(code);
}

/** The byte at the cursor after white space, 0 at the end. */
function peek(): u8 {
  while (at < json.length) {
    const c = json[at];
    if (c != 0x20 && c != 0x09 && c != 0x0a && c != 0x0d) return c;
    at++;
  }
  return 0;
}

function expect(c: u8): void {
  if (peek() != c) fail(3, "'" + String.fromCharCode(c) + "' expected at byte " + at.toString());
  at++;
}

/** Moves the cursor behind a string. */
function skipString(): void {
  expect(0x22);
  while (at < json.length && json[at] != 0x22) at += json[at] == 0x5c ? 2 : 1;
  if (at >= json.length) fail(3, "a string does not end");
  at++;
}

/** Moves the cursor behind any value. Nesting is counted, not recursed into, so that depth costs no stack. */
function skipValue(): void {
  let depth = 0;
  do {
    const c = peek();
    if (c == 0) {
      fail(3, "the data ends too early");
    } else if (c == 0x22) {
      skipString();
    } else if (c == 0x7b || c == 0x5b) {
      depth++;
      at++;
    } else if (c == 0x7d || c == 0x5d) {
      depth--;
      at++;
    } else if (c == 0x2c || c == 0x3a) {
      if (depth == 0) fail(3, "a value expected at byte " + at.toString());
      at++;
    } else if (isWord(c)) {
      while (at < json.length && isWord(json[at])) at++;
    } else {
      fail(3, "a control character at byte " + at.toString());
    }
  } while (depth > 0);
  if (depth < 0) fail(3, "a value expected at byte " + at.toString());
}

/** Whether a byte may be part of a number, true, false or null: everything but structure, quotes and white space. */
function isWord(c: u8): bool {
  return c > 0x20 && c != 0x22 && c != 0x2c && c != 0x3a && c != 0x5b && c != 0x5d && c != 0x7b && c != 0x7d;
}

function text(from: i32, to: i32): string {
  return String.UTF8.decodeUnsafe(json.dataStart + from, to - from);
}

function compares(value: string, op: string, wanted: string): bool {
  const left = parseFloat(value), right = parseFloat(wanted);
  const numbers = !value.startsWith('"') && !isNaN(left) && !isNaN(right);
  if (!numbers) {
    const same = value == wanted || value == '"' + wanted + '"';
    return op == "=" ? same : op == "!=" ? !same : false;
  }
  if (op == "=") return left == right;
  if (op == "!=") return left != right;
  if (op == "<") return left < right;
  if (op == "<=") return left <= right;
  if (op == ">") return left > right;
  return left >= right;
}

/** Moves the cursor behind an object and says whether it is wanted; one without the field is only for "!=". */
function wantedObject(field: string, op: string, wanted: string): bool {
  let result = op == "!=";
  expect(0x7b);
  if (peek() == 0x7d) {
    at++;
    return result;
  }
  for (;;) {
    peek();
    const keyAt = at;
    skipString();
    const key = text(keyAt + 1, at - 1);
    expect(0x3a);
    peek();
    const valueAt = at;
    skipValue();
    if (key == field) result = compares(text(valueAt, at), op, wanted);
    if (peek() != 0x2c) break;
    at++;
  }
  expect(0x7d);
  return result;
}

export function _start(): void {
  const argv = args();
  if (argv.length != 4 || !["=", "!=", "<", "<=", ">", ">="].includes(argv[2])) {
    fail(2, "arguments are FIELD OP VALUE, with OP one of = != < <= > >=");
  }
  json = readAll();
  const kept: i32[] = [];
  expect(0x5b);
  if (peek() != 0x5d) {
    for (;;) {
      peek();
      const from = at;
      if (wantedObject(argv[1], argv[2], argv[3])) {
        kept.push(from);
        kept.push(at);
      }
      if (peek() != 0x2c) break;
      at++;
    }
  }
  expect(0x5d);
  if (peek() != 0) fail(3, "more than one value");
  writeText(1, "[");
  for (let i = 0; i < kept.length; i += 2) {
    if (i > 0) writeText(1, ",");
    write(1, json.dataStart + kept[i], kept[i + 1] - kept[i]);
  }
  writeText(1, "]");
}
