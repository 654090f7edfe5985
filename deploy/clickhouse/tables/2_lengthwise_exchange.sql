-- One row for each exchange, with the columns of Lengthwise's ledger, made of its spans. What lengthwise.* says stands on
-- the CLIENT span, or on the SERVER span where no upstream was tried; start, status and route are the SERVER span's. Spans
-- that arrive twice count once; an exchange of which only the CLIENT span has arrived yet is not shown.
--
-- What spans do not carry is NULL here: upstream, checkpoints, arm_unit, ttfc_s of an answer that was not streamed,
-- last_token_s of fewer than two tokens. e2e_s ends with the exchange instead of the last byte, and is NULL where no response
-- head came. model is NULL where no upstream was tried, and so is provider, which opaque exchanges lack too; `choices` is 1
-- where a body could not be read. Settings that leave attributes out (telemetry.genai) leave columns empty, and sampling
-- (telemetry.sample_ratio, tail sampling) leaves rows out.
CREATE OR REPLACE VIEW lengthwise_exchange AS
WITH
    exchanges AS
    (
        SELECT
            TraceId AS trace_id,
            if(is_client, ParentSpanId, SpanId) AS server_span_id,
            anyIf(SpanAttributes, NOT is_client) AS server,
            if(countIf(is_client) > 0, anyIf(SpanAttributes, is_client), server) AS own,
            anyIf(Timestamp, NOT is_client) AS started,
            anyIf(Duration, is_client) AS client_ns
        FROM
        (
            SELECT *, SpanKind IN ('Client', 'SPAN_KIND_CLIENT') AS is_client
            FROM otel_traces
            WHERE ScopeName = 'lengthwise'
        )
        GROUP BY trace_id, server_span_id
        HAVING countIf(NOT is_client) > 0
    )
SELECT
    own['lengthwise.id'] AS id,
    toUnixTimestamp64Nano(started) / 1e9 AS started_at,
    CAST(NULL, 'Nullable(String)') AS upstream,
    nullIf(own['gen_ai.provider.name'], '') AS provider,
    transform(
        server['http.route'],
        ['/v1/chat/completions', '/v1/completions', '/v1/responses', '/v1/messages'],
        ['chat_completions', 'completions', 'responses', 'messages'],
        'opaque'
    ) AS dialect,
    nullIf(own['gen_ai.request.model'], '') AS model,
    nullIf(own['gen_ai.response.model'], '') AS response_model,
    nullIf(own['lengthwise.app'], '') AS app,
    nullIf(own['lengthwise.key'], '') AS key_name,
    toInt64(mapContains(own, 'lengthwise.stream.events')) AS stream,
    toInt64OrNull(server['http.response.status_code']) AS status,
    own['lengthwise.stream.end'] AS end,
    if(
        mapContains(own, 'gen_ai.response.finish_reasons'),
        transform(
            JSONExtractString(own['gen_ai.response.finish_reasons'], 1),
            [
                'stop', 'length', 'tool_calls', 'function_call', 'content_filter', 'completed', 'max_output_tokens',
                'custom_tool_call', 'computer_call', 'local_shell_call', 'shell_call', 'apply_patch_call',
                'mcp_approval_request', 'end_turn', 'stop_sequence', 'max_tokens', 'tool_use', 'refusal'
            ],
            [
                'stop', 'length', 'tool_calls', 'tool_calls', 'content_filter', 'stop', 'length', 'tool_calls', 'tool_calls',
                'tool_calls', 'tool_calls', 'tool_calls', 'tool_calls', 'stop', 'stop', 'length', 'tool_calls', 'content_filter'
            ],
            'other'
        ),
        NULL
    ) AS finish,
    if(mapContains(own, 'lengthwise.truncated'), toInt64(own['lengthwise.truncated'] = 'true'), NULL) AS cut,
    toInt64OrNull(own['lengthwise.max_tokens.requested']) AS requested_max_tokens,
    toInt64OrNull(own['lengthwise.max_tokens.forwarded']) AS forwarded_max_tokens,
    nullIf(own['lengthwise.max_tokens.field'], '') AS limit_field,
    nullIf(own['lengthwise.policy.rule'], '') AS rule,
    ifNull(nullIf(own['lengthwise.max_tokens.action'], ''), 'none') AS action,
    nullIf(own['lengthwise.policy.arm'], '') AS arm,
    nullIf(own['lengthwise.policy.shadow'], '') AS shadow,
    ifNull(toInt64OrNull(own['gen_ai.request.choice.count']), 1) AS choices,
    toInt64OrNull(own['gen_ai.usage.input_tokens']) AS input_tokens,
    toInt64OrNull(own['gen_ai.usage.cache_read.input_tokens']) AS cached_input_tokens,
    coalesce(
        toInt64OrNull(own['gen_ai.usage.output_tokens']), toInt64OrNull(own['lengthwise.usage.estimated_output_tokens'])
    ) AS output_tokens,
    toInt64OrNull(own['gen_ai.usage.reasoning.output_tokens']) AS reasoning_tokens,
    toInt64OrNull(own['lengthwise.decoded_tokens']) AS decoded_tokens,
    ifNull(nullIf(own['lengthwise.usage.source'], ''), 'none') AS usage_source,
    toFloat64OrNull(own['gen_ai.response.time_to_first_chunk']) AS ttfc_s,
    toFloat64OrNull(own['lengthwise.time_to_first_token']) AS ttft_s,
    toFloat64OrNull(own['lengthwise.time_to_first_answer_token']) AS ttfa_s,
    round(ttft_s + tpot_s * (decoded_tokens - 1), 9) AS last_token_s,
    if(
        mapContains(own, 'lengthwise.upstream.time_to_headers'),
        (client_ns - ifNull(round(toFloat64OrNull(own['lengthwise.upstream.connect_time']) * 1e9), 0)) / 1e9,
        NULL
    ) AS e2e_s,
    toFloat64OrNull(own['lengthwise.time_per_output_token']) AS tpot_s,
    CAST(NULL, 'Nullable(String)') AS checkpoints,
    toFloat64OrNull(own['lengthwise.client_blocked']) AS client_blocked_s,
    if(
        mapContains(own, 'lengthwise.overhead.request') OR mapContains(own, 'lengthwise.overhead.first_chunk'),
        toFloat64OrZero(own['lengthwise.overhead.request']) + toFloat64OrZero(own['lengthwise.overhead.first_chunk']),
        NULL
    ) AS overhead_s,
    nullIf(own['lengthwise.degraded'], '') AS degraded,
    coalesce(nullIf(own['error.type'], ''), nullIf(server['error.type'], '')) AS error_type,
    trace_id,
    CAST(NULL, 'Nullable(String)') AS arm_unit
FROM exchanges;
