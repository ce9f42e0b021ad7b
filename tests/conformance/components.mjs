// Makes components of core modules: node components.mjs API ADAPTER FOLDER NAME=FILE...
import { readFile, writeFile } from 'node:fs/promises';

const [, , api, adapter, folder, ...pairs] = process.argv;
const { componentNew } = await import(api);
const preview1 = await readFile(adapter);
for (const pair of pairs) {
  const at = pair.indexOf('=');
  const made = await componentNew(await readFile(pair.slice(at + 1)), [['wasi_snapshot_preview1', preview1]]);
  await writeFile(`${folder}/${pair.slice(0, at)}.wasm`, made);
}
