// Runs the Khronos glTF validator on a file; prints its messages as JSON.
import { readFile } from 'node:fs/promises';
import validator from 'gltf-validator';

const report = await validator.validateBytes(new Uint8Array(await readFile(process.argv[2])), { maxIssues: 0 });
process.stdout.write(JSON.stringify(report.issues.messages));
