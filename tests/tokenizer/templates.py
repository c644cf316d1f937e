"""Chat templates of the tests, written anew with what those of Qwen3, Llama 3.1, Gemma 2, gpt-oss and vision models do.

Most of their control tokens are special ones, so that a template that asks for them in a content has to see them there.
"""

SPECIAL = (
    "<|im_start|> <|im_end|> <think> </think> <tool_call> </tool_call> <tool_response> </tool_response> <s> <|end|>"
).split()

THINKING = """\
{%- if tools %}{{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '<tools>' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}{{- '</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if ns.searching and message.role == 'user' and message.content is string and not(
        message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}{%- set ns.last = messages|length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}{%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- set tool_call = tool_call.function or tool_call %}
            {{- '\\n<tool_call>\\n{"name": "' ~ tool_call.name ~ '", "arguments": ' }}
            {{- tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

TOOLS = """\
{{- bos_token }}{%- set named = tools if tools else [] %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = 'none' %}{%- endif %}
<s>{{ named | length }} tools: {{ named | map(attribute='function.name') | join(', ') }}; {{ system_message }}<|end|>
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<s>assistant\\n' -}}{{- '{"name": "' + call.name + '", ' }}{{- '"parameters": ' }}
        {{- call.arguments | tojson(indent=1) }}{{- '}<|end|>' }}
    {%- elif message.role in ['tool', 'ipython'] %}
        {{- '<s>tool ' ~ message.tool_call_id ~ '\\n' }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}{{- '<|end|>' }}
    {%- else %}{{- '<s>' + message['role'] + '\\n' + message['content'] | trim + '<|end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<s>assistant\\n' }}{%- endif %}"""

NO_SYSTEM = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<s>' + role + '\\n' + message['content'] | trim + '<|end|>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<s>model\\n' }}{% endif %}"""

DEVELOPER = """\
{%- macro block(title, text) %}{{ '# ' ~ title ~ '\\n\\n' ~ text }}{% endmacro %}
{%- set reasoning_effort = reasoning_effort | default('medium') %}
{{- '<|im_start|>system\\nReasoning: ' + reasoning_effort + '<|im_end|>' }}
{%- if messages[0].role in ('developer', 'system') %}
    {%- set developer_message = messages[0].content %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set developer_message = '' %}{%- set loop_messages = messages %}{%- endif %}
{%- if developer_message or tools %}
    {{- '<|im_start|>developer\\n' }}{% if developer_message %}{{ block('Instructions', developer_message) }}{% endif %}
    {%- for tool in tools or [] %}{{- '\\ntype ' + tool.function.name + ' = (_: ' }}
        {%- for name, value in tool.function.parameters.properties.items() %}{{- name + ': ' + value.type + ', ' }}{%- endfor %}
        {{- ') => any;' }}
    {%- endfor %}{{- '<|im_end|>' }}
{%- endif %}
{%- for message in loop_messages %}
    {%- set shown %}{{ message.content | default('', true) }}{% endset %}
    {%- if message.thinking is defined %}{{- '<think>' ~ message.thinking ~ '</think>' }}{%- endif %}
    {%- set shown = (shown | replace('</think>', '') if '</think>' in shown else shown) %}
    {{- '<|im_start|>' + message.role + '\\n' + shown + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant{% endif %}"""

PARTS = """\
{%- macro render(content) %}
    {%- if content is string %}{{- content }}
    {%- else %}{%- for item in content %}{{- '[' ~ item.text ~ ']' if 'text' in item }}{%- endfor %}{%- endif %}
{%- endmacro %}
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}{{- render(message.content) }}{{- '<|im_end|>' }}
{%- endfor %}"""

TEMPLATES = {"thinking": THINKING, "tools": TOOLS, "no-system": NO_SYSTEM, "developer": DEVELOPER, "parts": PARTS}
