"""Chat templates in the shapes that real model families have, written for these tests."""

SYSTEM_THEN_TOOLS = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Functions\\n\\nThese can be called:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
"""Hermes and Qwen: tools after the system text, in the same turn."""

NO_CALLS = """\
{%- if tools %}
{{- '<|im_start|>tools, called with <|tool_call|>\\n' + tools | tojson + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
"""
"""Like Granite 3's: shows tools and results, but no calls."""

TOOLS_WITH_USER = """\
{%- set system = '' %}
{%- if messages[0].role == 'system' %}
{%- set system = messages[0].content | trim %}{%- set messages = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
{%- if message.tool_calls %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
{{- call.arguments | tojson + '}<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{%- if loop.first and tools %}
{{- 'Given these functions, answer with JSON for a call.\\n\\n' }}
{%- for tool in tools %}{{- tool | tojson(indent=4) + '\\n\\n' }}{%- endfor %}
{%- endif %}
{{- message.content | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
"""Llama 3: tools in the first user turn, calls without tags, so that no parser can find them."""

NO_TOOLS = """\
{% for message in messages %}\
{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '<|end|>\\n' }}\
{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}\
{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' }}\
{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
"""Phi-3: three roles, everything else is left out without a word."""

STRICT = """\
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Roles must alternate user/assistant') }}
{%- endif %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\\n' + message.content + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""
"""Gemma 2: no system role, turns that alternate."""

SYSTEM_FIRST_ONLY = """\
{%- if tools %}{{- '[TOOLS]' + tools | tojson + '[/TOOLS]' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'system' and not loop.first %}
{{- raise_exception('System message must be at the beginning.') }}
{%- elif message.tool_calls %}
{%- for call in message.tool_calls %}
{{- '[assistant]<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments + '}</tool_call>' }}
{%- endfor %}
{%- else %}
{{- '[' + message.role + ']' + message.content }}
{%- endif %}
{%- endfor %}
{{- '[assistant]' }}"""
"""A system message at the head only, and arguments as JSON text."""

NINE_LETTERS = """\
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- set rest = messages[1:] if messages[0].role == 'system' else messages %}
{%- set users = rest | selectattr('role', 'equalto', 'user') | list %}
{%- set spoken = namespace(count=0) %}
{%- for message in rest %}
{%- if message.role != 'tool' and not message.tool_calls %}
{%- if (message.role == 'user') != (spoken.count % 2 == 0) %}
{{- raise_exception('Roles must alternate') }}
{%- endif %}
{%- set spoken.count = spoken.count + 1 %}
{%- endif %}
{%- if message.role == 'user' %}
{%- if tools and message == users[-1] %}{{- '[TOOLS]' + tools | tojson + '[/TOOLS]' }}{%- endif %}
{{- '[INST]' + (system + '\\n\\n' if loop.last else '') + message.content + '[/INST]' }}
{%- elif message.tool_calls %}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{- raise_exception('Ids must have nine letters') }}{%- endif %}
{{- '<tool_call>' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
{{- '</tool_call>' }}
{%- endfor %}
{%- elif message.role == 'tool' %}
{%- if message.tool_call_id | length != 9 %}{{- raise_exception('Ids must have nine letters') }}{%- endif %}
{{- '[RESULT]' + message.content + '[/RESULT]' }}
{%- else %}
{{- message.content + '<|im_end|>' }}
{%- endif %}
{%- endfor %}"""
"""Mistral Nemo: ids of nine letters, strict turns, tools and system text before the user's last words."""

THINKS_IN_ITS_OWN_WORDS = """\
{%- for message in messages %}
{{- '[' + message.role + ']' }}
{%- if message.thinking %}{{- '<think>' + message.thinking + '</think>' }}{%- endif %}
{{- message.content }}
{%- endfor %}
{{- '[assistant]<think>' if thinking else '[assistant]</think>' }}"""
"""DeepSeek 3.1: another name for the switch, and the block is closed rather than left out."""

THINKS_BY_DEFAULT = """\
{%- set spoken = namespace(last=0) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{%- set spoken.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\\n' }}
{%- if message.role == 'assistant' and loop.index0 > spoken.last %}
{{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- if loop.first %}{%- for tool in tools or [] %}{{- tool | tojson }}{%- endfor %}{%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}"""
"""Qwen 3: thinks unless it is told not to; thoughts are shown behind the last words of the user only."""

ALWAYS_THINKS = """\
{{- '<s>' }}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '<User>' + message.content }}
{%- elif message.role == 'assistant' %}{{- '<Assistant>' + message.content.split('</think>')[-1] + '</s>' }}
{%- else %}{{- message.content }}{%- endif %}
{%- endfor %}
{{- '<Assistant><think>\\n' }}"""
"""DeepSeek R1: no switch, thoughts are opened for it and never shown again."""

SWITCH_IN_THE_QUESTION = """\
{%- for message in messages %}
{{- '<|' + message.role + '|>\\n' }}
{%- if message.role == 'assistant' %}
{{- '<think>' + (message.reasoning_content or '') + '</think>\\n' }}
{%- endif %}
{{- message.content }}
{%- if message.role == 'user' and enable_thinking is defined and not enable_thinking %}
{{- '/nothink' }}
{%- endif %}
{%- endfor %}
{{- '<|assistant|>' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '\\n<think></think>' }}{%- endif %}"""
"""GLM 4.5: the switch stands in the question as well as in the answer."""

MESSAGES_WITH_HEADERS = """\
{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}
{%- if messages[0].role == 'system' or tools %}
{{- '<|start|>developer<|message|>' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}
{%- for tool in tools or [] %}
{{- '// ' + tool.function.description + '\\ntype ' + tool.function.name + ' = (_: any) => any;\\n' }}
{%- endfor %}
{{- '<|end|>' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' and message.tool_calls %}
{%- if message.content and message.thinking %}{{- raise_exception('Put one of them elsewhere.') }}{%- endif %}
{%- if message.content or message.thinking %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + (message.content or message.thinking) + '<|end|>' }}
{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}
{{- call.arguments | tojson + '<|call|>' }}
{%- elif message.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}
{%- elif message.role == 'tool' %}
{{- '<|start|>functions.x to=assistant<|channel|>commentary<|message|>' }}
{{- message.content | tojson + '<|end|>' }}
{%- elif message.role == 'user' %}
{{- '<|start|>user<|message|>' + message.content + '<|end|>' }}
{%- elif not loop.first %}
{{- raise_exception('System messages come first.') }}
{%- endif %}
{%- endfor %}
{{- '<|start|>assistant' }}"""
"""gpt-oss: channels for thoughts, calls and answers, and an effort for the switch."""

EFFORTS_OF_ITS_OWN = """\
{%- if reasoning_effort is defined and reasoning_effort not in ['none', 'high'] %}
{{- raise_exception('reasoning_effort must be none or high') }}
{%- endif %}
{{- '[EFFORT]' + (reasoning_effort or 'none') + '[/EFFORT]' }}
{%- for message in messages %}{{- '[' + message.role + ']' + message.content }}{%- endfor %}"""
"""Mistral's newest: two efforts, any other is refused."""

BUDGET_IN_TOKENS = """\
{%- if thinking_budget is defined %}{{- 'At most ' ~ thinking_budget ~ ' tokens of thoughts.' }}{%- endif %}
{%- for message in messages %}{{- '[' + message.role + ']' + message.content }}{%- endfor %}"""
"""Seed-OSS: says how many tokens thoughts may take."""

DROPS_THOUGHTS = """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages if message.role == 'user' %}
{%- set ns.last = messages.index(message) %}
{%- endfor %}
{%- if tools %}{{- '<|im_start|>system\\n' + tools | tojson + '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and SHOWS %}
{{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n' if message.content else '' }}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""
"""Qwen3.5: only the loop under way has thoughts, and each of its answers has tags of them."""

THOUGHTS_BY_SWITCH = DROPS_THOUGHTS.replace("SHOWS", "(loop.index0 > ns.last or preserve_thinking)")
DROPS_THOUGHTS = DROPS_THOUGHTS.replace("SHOWS", "loop.index0 > ns.last")
