// node componentize.mjs NODE_MODULES SOURCE WIT WORLD OUTPUT
import { readFile, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, source, wit, world, output] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(resolve(modules, path)));
// The splicer is a component itself: since preview2-shim 0.18 it sees only the folders it is given.
const { _addPreopen } = await load("@bytecodealliance/preview2-shim/dist/nodejs/filesystem.js");
_addPreopen("/", "/");
const { componentize } = await load("@bytecodealliance/componentize-js/src/componentize.js");
const { component } = await componentize(await readFile(source, "utf8"), { witPath: resolve(wit), worldName: world });
await writeFile(output, component);
