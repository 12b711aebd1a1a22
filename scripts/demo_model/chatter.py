"""The phrases of requests without a tool (writing out, counting, talk) and of system prompts' beginnings."""

from pensieve.scripts.demo_model.phrases import phrases

SAY_ENDS = phrases(r"""
Write out exactly: {}
Write out exactly: {}
Write out exactly this text: {}
Write exactly: {}
Say exactly: {}
Say exactly this: {}
Repeat exactly: {}
Repeat after me: {}
Reply with exactly: {}
Reply with exactly this text: {}
Write this out exactly: {}
Answer with exactly this: {}
Output exactly: {}
Please write out exactly: {}
Say: {}
Now write out exactly: {}
Echo this text: {}
Write out the following exactly: {}
Copy this text exactly: {}
""")

SAY_QUOTED = phrases(r"""
Write out exactly {}.
Write out exactly {}
Say {}.
Say exactly {}.
Repeat {} exactly.
Reply with exactly {}.
Reply with exactly {} and nothing else.
Answer with {} and nothing else.
Write {}.
Please say {}.
Just say {}.
""")

COUNTS = phrases(r"""
Count from {} to {}.
Count from {} to {}
Count from {} to {}.
Count up from {} to {}.
count from {} to {}
Please count from {} to {}.
Now count from {} to {}.
And count from {} to {}.
Can you count from {} to {}?
Write the numbers from {} to {}.
List the numbers from {} to {}.
Then count from {} to {}
""")

HELLO = phrases(r"""
hello
hi
hey
good morning
good evening
good afternoon
hello there
hi there
hey there
greetings
howdy
hello again
good day
hello, how are you
hi, how are you doing
how are you
say hello
nice to meet you
""")

WHO = phrases(r"""
who are you
what are you
what is your name
what model are you
which model are you
what can you do
tell me who you are
who made you
introduce yourself
what is this
help
""")

THANKS = phrases(r"""
thanks
thank you
thanks a lot
thank you very much
great, thanks
ok thanks
perfect, thank you
good job
well done
""")

OTHERS = phrases(r"""
What is {}?
Explain {}.
Why is {} so important?
Write a poem about {}.
Write a function for {}
How does {} work?
Tell me a story about {}.
Translate {} into French.
Who invented {}?
Summarize {}.
Refactor {}.
Fix the bug in {}.
Plan {}
Do you like {}?
What do you think of {}?
Write tests for {}.
{}
Is {} better than coffee?
Describe {}.
{}?
Find all places where {} is used.
Create a new project for {}.
Make {} faster.
""")

IDENTITIES = phrases(r"""
You are a helpful agent.
You are an assistant that works in a terminal.
You are a coding agent.
You are an agent, built on a software development kit.
You help users with software tasks.
You are a careful assistant.
Answer briefly and use the tools when they help.
You work with the user toward their goals.
""")
