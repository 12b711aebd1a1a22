// Prints schemas that zod writes, each with a value that conforms, as one line of JSON.
// Run where zod can be found: node zod_types.mjs FOLDER, a folder with node_modules/zod.
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(path.resolve(process.argv[2]), "x.js"));
const { z } = require("zod");

const cat = z.object({ kind: z.literal("cat"), lives: z.number().int() });
const dog = z.object({ kind: z.literal("dog"), tricks: z.array(z.string()) });
const tree = z.object({
  value: z.string(),
  get children() {
    return z.array(tree);
  },
});

const types = [
  [z.string(), "a"],
  [z.string().min(2).max(5), "abc"],
  [z.string().regex(/^[a-z]+\d?$/), "ab1"],
  [z.string().regex(/^(?=.*\d)\w+$/), "a1"],
  [z.string().startsWith("a").endsWith("z"), "abz"],
  [z.email(), "a@b.cd"],
  [z.uuid(), "6ba7b810-9dad-41d1-80b4-00c04fd430c8"],
  [z.url(), "https://a.b/c"],
  [z.ipv4(), "127.0.0.1"],
  [z.iso.datetime(), "2026-11-30T10:00:00Z"],
  [z.iso.date(), "2026-11-30"],
  [z.iso.time(), "10:00:00"],
  [z.base64(), "YQ=="],
  [z.nanoid(), "V1StGXR8_Z5jdHi6B-myT"],
  [z.cuid2(), "tz4a98xxat96iws9zmbrgj3a"],
  [z.emoji(), "😀"],
  [z.number(), 1.5],
  [z.number().int(), 3],
  [z.int().positive(), 3],
  [z.number().gt(0).lte(10), 10],
  [z.number().multipleOf(5), 15],
  [z.boolean(), true],
  [z.null(), null],
  [z.any(), { a: [1] }],
  [z.unknown(), "x"],
  [z.literal("a"), "a"],
  [z.literal(["a", 1]), 1],
  [z.enum(["a", "b"]), "b"],
  [z.string().nullable(), null],
  [z.string().optional(), "a"],
  [z.string().default("d"), "a"],
  [z.union([z.string(), z.number()]), 5],
  [z.array(z.string()), ["a"]],
  [z.array(z.number()).min(1).max(3), [1]],
  [z.array(z.number()).nonempty(), [1]],
  [z.tuple([z.string(), z.number()]), ["a", 1]],
  [z.tuple([z.string()], z.number()), ["a", 1, 2]],
  [z.record(z.string(), z.number()), { a: 1 }],
  [z.record(z.enum(["a", "b"]), z.number()), { a: 1, b: 2 }],
  [z.partialRecord(z.enum(["a", "b"]), z.number()), { a: 1 }],
  [z.record(z.string().regex(/^k/), z.boolean()), { k1: true }],
  [z.record(z.string().min(2), z.boolean()), { ab: true }],
  [z.object({}), {}],
  [z.object({ a: z.string(), b: z.number().optional() }), { a: "x" }],
  [z.strictObject({ a: z.string() }), { a: "x" }],
  [z.looseObject({ a: z.string() }), { a: "x", more: 1 }],
  [z.object({ a: z.string() }).catchall(z.number()), { a: "x", more: 1 }],
  [z.object({ a: z.string(), never: z.never().optional() }), { a: "x" }],
  [z.object({ a: z.string().describe("d").meta({ examples: ["e"] }) }), { a: "x" }],
  [z.object({ a: z.string() }).extend({ b: z.boolean() }).partial(), { b: true }],
  [z.intersection(z.object({ a: z.string() }), z.object({ b: z.number() })), { a: "x", b: 1 }],
  [z.discriminatedUnion("kind", [cat, dog]), { kind: "dog", tricks: ["sit"] }],
  [z.array(z.discriminatedUnion("kind", [cat, dog])), [{ kind: "cat", lives: 9 }]],
  [z.object({ pet: z.union([cat, dog]).nullish() }), { pet: null }],
  [tree, { value: "a", children: [{ value: "b", children: [] }] }],
  [z.lazy(() => z.string()), "a"],
  [z.string().brand("b"), "a"],
  [z.string().readonly(), "a"],
  [z.json(), { a: [null] }],
  [z.stringbool(), "true"],
];

const targets = ["draft-2020-12", "draft-7"];
const found = [];
for (const target of targets) {
  for (const [type, value] of types) {
    const schema = z.toJSONSchema(type, { target, io: "input", unrepresentable: "any" });
    found.push([schema, value]);
  }
}
console.log(JSON.stringify(found));
