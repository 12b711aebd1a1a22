// Lets models of the Vercel AI SDK call a tool in a loop, whole and streamed, go on, and answer with an object.
// node ai_sdk.mjs URL: prints a line of JSON for each model. The folder of this file has node_modules.
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { Output, generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

globalThis.AI_SDK_LOG_WARNINGS = false;
const baseURL = `${process.argv[2]}/v1`;
const apiKey = 'local';
const models = {
  anthropic: createAnthropic({ baseURL, apiKey })('demo'),
  chat: createOpenAICompatible({
    name: 'pensieve', baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true,
  })('demo'),
  responses: createOpenAI({ baseURL, apiKey })('demo'),
};
const fruit = tool({
  description: 'Tells the fruit of a colour.',
  inputSchema: z.object({ colour: z.string(), number: z.number().int().optional() }),
  execute: async ({ colour }) => `ripe-plum, ${colour}`,
});
const question = { role: 'user', content: 'Which fruit is blue?' };
for (const [name, model] of Object.entries(models)) {
  const settings = { model, tools: { fruit }, stopWhen: stepCountIs(5), maxRetries: 0 };
  const whole = await generateText({ ...settings, messages: [question] });
  const stream = streamText({ ...settings, messages: [question] });
  let streamed = '';
  for await (const text of stream.textStream) streamed += text;
  const before = [question, ...(await stream.response).messages];
  const more = await generateText({
    ...settings, messages: [...before, { role: 'user', content: 'Are you sure?' }],
  });
  const object = await generateText({
    model, maxRetries: 0, prompt: 'An object, please.',
    output: Output.object({ schema: z.object({ fruit: z.string(), ripe: z.boolean().optional() }) }),
  });
  const usage = await stream.totalUsage;
  const tokens = [usage.inputTokens, usage.outputTokens];
  console.log(JSON.stringify({ name, whole: whole.text, streamed, tokens, more: more.text, object: object.output }));
}
