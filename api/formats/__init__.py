"""How models write their answers: detokenizers, tags, thoughts and tool calls. Knows no HTTP."""
