// Loads a splat .glb with three's GLTFLoader and its Gaussian splat extension; prints what they hold as JSON.
import { readFile } from 'node:fs/promises';
import { GLTFLoader } from 'three/addons/loaders/GLTFLoader.js';
import { GLTFGaussianSplatLoaderExtension } from 'three/addons/loaders/GLTFGaussianSplatLoaderExtension.js';

const data = await readFile(process.argv[2]);
const buffer = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);

// Attributes as the plain loader gives them: an unregistered extension is points with extra attributes.
const plain = await new GLTFLoader().parseAsync(buffer, '');
const attributes = {};
plain.scene.traverse((object) => {
  if (!object.isPoints) return;
  for (const [name, attribute] of Object.entries(object.geometry.attributes)) {
    const values = [];
    for (let i = 0; i < attribute.count; i++) {
      for (let j = 0; j < attribute.itemSize; j++) values.push(attribute.getComponent(i, j));
    }
    attributes[name] = { width: attribute.itemSize, values };
  }
});

const loader = new GLTFLoader();
loader.register((parser) => new GLTFGaussianSplatLoaderExtension(parser));
const loaded = await loader.parseAsync(buffer, '');
let splat = null;
loaded.scene.traverse((object) => {
  if (!object.isGaussianSplat) return;
  const { position, covariance, color } = object.splatGeometry.attributes;
  splat = {
    count: position.count,
    centers: Array.from(position.array),
    covariances: Array.from(covariance.array),
    colors: Array.from(color.array),
  };
});
process.stdout.write(JSON.stringify({ attributes, splat }));
