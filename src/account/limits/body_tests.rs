use super::*;

/// 2026-11-21T22:45:00Z, which is 2026-11-22 06:45:00 in China.
const NOW: Wall = Wall(1_795_301_100_000);

#[test]
fn bodies_of_refusals_say_how_long() {
    let cst_7_15 = Some(1_800);
    // (rule, body, seconds)
    let table: &[(&str, &str, Option<u64>)] = &[
        // GLM: codes of short limits.
        (
            "V3 1302",
            r#"{"error":{"code":"1302","message":"High concurrency usage of this API, please reduce concurrency or contact customer service to increase limits"}}"#,
            Some(60),
        ),
        (
            "V3 1302 Chinese",
            r#"{"error":{"code":"1302","message":"您当前使用该API的并发数过高，请降低并发，或联系客服增加限额"}}"#,
            Some(60),
        ),
        (
            "V3 1303",
            r#"{"error":{"code":"1303","message":"High frequency usage of this API, please reduce frequency or contact customer service to increase limits"}}"#,
            Some(60),
        ),
        (
            "V3 1305 number",
            r#"{"error":{"code":1305,"message":"The API has triggered a rate limit."}}"#,
            Some(60),
        ),
        (
            "V3 1305 as type",
            r#"{"type":"error","error":{"type":"1305","message":"The service may be temporarily overloaded, please try again later"},"request_id":"2026112206450012ab"}"#,
            Some(60),
        ),
        (
            "V3 1302 keeps its minute whatever is said",
            r#"{"error":{"code":"1302","message":"Rate limited, try again in 3 hours"}}"#,
            Some(60),
        ),
        // GLM: codes with a time.
        (
            "V3 1308",
            r#"{"error":{"code":"1308","message":"Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 07:15:00"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 as type",
            r#"{"type":"error","error":{"type":"1308","message":"Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 07:15:00"},"request_id":"20261122064500a1b2c3d4"}"#,
            cst_7_15,
        ),
        (
            "V3 1308 number",
            r#"{"error":{"code":1308,"message":"Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 07:15:00"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 Chinese",
            r#"{"error":{"code":"1308","message":"已达到 5 小时的使用上限。您的限额将在 2026-11-22 07:15:00 重置。"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 Chinese without spaces",
            r#"{"error":{"code":"1308","message":"已达到5小时的使用上限，您的限额将在2026-11-22 07:15:00重置"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 in a stream",
            "event: error\ndata: {\"error\":{\"code\":\"1308\",\"message\":\"Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 07:15:00\"}}\n\n",
            cst_7_15,
        ),
        (
            "V3 1308 in brackets",
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"[1308][Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 07:15:00][20261122064500abc]"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 plain text",
            "429 [1308][Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 07:15:00]",
            cst_7_15,
        ),
        (
            "V3 1308 UTC",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 2026-11-21T23:15:00Z"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 offset",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 2026-11-22T07:15:00.000+08:00"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 UTC+8",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 2026-11-22 07:15:00 (UTC+8)"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 UTC by name",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 2026-11-21 23:15 UTC."}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 another time before",
            r#"{"error":{"code":"1308","message":"[2026-11-22 06:44:59] Usage limit reached (plan until 2026-12-31). Your limit will reset at 2026-11-22 07:15:00"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 epoch seconds",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 1795302900"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 next_flush_time in the text",
            r#"{"error":{"code":"1308","message":"limit reached, next_flush_time=1795302900000"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 next_flush_time as a field",
            r#"{"error":{"code":"1308","message":"limit reached","next_flush_time":"2026-11-22 07:15:00"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 next_flush_time as a number",
            r#"{"error":{"code":"1308","message":"limit reached"},"next_flush_time":1795302900000}"#,
            cst_7_15,
        ),
        (
            "V3 1308 in a span",
            r#"{"error":{"code":"1308","message":"Usage limit reached for 5 hour, resets in 30 minutes"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 in a Chinese span",
            r#"{"error":{"code":"1308","message":"5小时额度已用完，30分钟后重置"}}"#,
            cst_7_15,
        ),
        (
            "V3 1308 template not filled in",
            r#"{"error":{"code":"1308","message":"Usage limit reached for ${number} ${unit}. Your limit will reset at ${next_flush_time}"}}"#,
            Some(3_600),
        ),
        (
            "V3 1308 no time",
            r#"{"error":{"code":"1308","message":"Usage limit reached for 5 hour."}}"#,
            Some(3_600),
        ),
        (
            "V3 1308 a time long past",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 2026-11-21 07:15:00"}}"#,
            Some(3_600),
        ),
        (
            "V3 1308 a time just past",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 2026-11-22 06:44:30"}}"#,
            Some(60),
        ),
        (
            "V3 1308 a date that does not exist",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 2026-13-45 07:15:00"}}"#,
            Some(3_600),
        ),
        (
            "V3 1304",
            r#"{"error":{"code":"1304","message":"Daily call limit for this API reached. For more requests, please contact customer service"}}"#,
            Some(3_600),
        ),
        (
            "V3 1309",
            r#"{"error":{"code":"1309","message":"Your GLM Coding Plan package has expired and is temporarily unavailable. You can resume using it after renewing your subscription."}}"#,
            Some(3_600),
        ),
        (
            "V3 1310 more than a day",
            r#"{"error":{"code":"1310","message":"Weekly/Monthly Limit Exhausted. Your limit will reset at 2026-11-27 15:17:59"}}"#,
            Some(86_400),
        ),
        (
            "V3 1310 Chinese",
            r#"{"error":{"code":"1310","message":"每周/每月使用上限已用完，您的限额将在 2026-11-22 18:45:00 重置。"}}"#,
            Some(43_200),
        ),
        (
            "V3 1316",
            r#"{"error":{"code":"1316","message":"Your team's 5-hour quota is used up, it refreshes at 2026-11-22 07:15:00"}}"#,
            cst_7_15,
        ),
        ("V3 1317", r#"{"error":{"code":1317,"message":"Team quota used up"}}"#, Some(3_600)),
        (
            "V3 wrapped as text",
            r#"{"type":"error","error":{"type":"api_error","message":"upstream: {\"error\":{\"code\":\"1308\",\"message\":\"Your limit will reset at 2026-11-22 07:15:00\"}}"}}"#,
            cst_7_15,
        ),
        (
            "V3 code at the top",
            r#"{"code":1302,"msg":"您的账户已达到速率限制，请您控制请求频率","success":false}"#,
            Some(60),
        ),
        (
            "V3 another code with a time",
            r#"{"error":{"code":"1313","message":"Fair usage policy. Access resumes; try again after 2026-11-22 07:15:00"}}"#,
            cst_7_15,
        ),
        (
            "V3 another code",
            r#"{"error":{"code":"1113","message":"Insufficient balance or no resource package. Please recharge."}}"#,
            None,
        ),
        // Time formats that no known provider sends: the default hour of the code.
        (
            "V3 1308 clock alone",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 07:15"}}"#,
            Some(3_600),
        ),
        (
            "V3 1308 clock alone, tomorrow",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 06:15"}}"#,
            Some(3_600),
        ),
        (
            "V3 1308 month by name",
            r#"{"error":{"code":"1308","message":"Your limit resets on Nov 22, 2026 at 7:15 AM (Beijing time)"}}"#,
            Some(3_600),
        ),
        (
            "V3 1308 day before month, HTTP style",
            r#"{"error":{"code":"1308","message":"Your limit will reset at 21 Nov 2026 23:15:00 GMT"}}"#,
            Some(3_600),
        ),
        (
            "V3 1308 a month without a year",
            r#"{"error":{"code":"1308","message":"Your limit will reset on November 22nd 07:15"}}"#,
            Some(3_600),
        ),
        (
            "V3 1308 Chinese date",
            r#"{"error":{"code":"1308","message":"您的限额将于2026年11月22日 07:15:00重置"}}"#,
            Some(3_600),
        ),
        (
            "V3 1308 Chinese clock",
            r#"{"error":{"code":"1308","message":"使用上限已达到，11月22日7时15分恢复"}}"#,
            Some(3_600),
        ),
        (
            "V3 1308 Chinese half of the day",
            r#"{"error":{"code":"1308","message":"额度将在今天上午7点15分重置"}}"#,
            Some(3_600),
        ),
        (
            "V3 1304 tomorrow",
            r#"{"error":{"code":"1304","message":"该API今日调用次数已达上限，将于明天 00:00 恢复"}}"#,
            Some(3_600),
        ),
        (
            "V3 Kimi hours",
            r#"{"error":{"type":"exceeded_current_quota_error","message":"Usage limit reached, quota available in 2h 30m."}}"#,
            Some(3_600),
        ),
        // Kimi.
        (
            "V3 Kimi seconds",
            r#"{"error":{"message":"Your account org-1f<ak-2> request reached organization max RPM: 3, please try again after 1 seconds","type":"rate_limit_reached_error"}}"#,
            Some(1),
        ),
        (
            "V3 Kimi more seconds",
            r#"{"error":{"type":"rate_limit_reached_error","message":"request reached organization TPD rate limit, current: 1500000, limit: 1500000, please try again after 1787 seconds"}}"#,
            Some(1_787),
        ),
        (
            "V3 Kimi in Anthropic's shape",
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"max organization concurrency: 1, please try again after 2 seconds"}}"#,
            Some(2),
        ),
        (
            "V3 Kimi rate limit",
            r#"{"error":{"type":"rate_limit_reached_error","message":"request reached max request limit"}}"#,
            Some(60),
        ),
        (
            "V3 Kimi overloaded",
            r#"{"error":{"type":"engine_overloaded_error","message":"The engine is currently overloaded, please try again later"}}"#,
            Some(60),
        ),
        (
            "V3 Kimi quota",
            r#"{"error":{"type":"exceeded_current_quota_error","message":"Your account org-1f<ak-2> is suspended, please check your plan and billing details"}}"#,
            Some(3_600),
        ),
        (
            "V3 Kimi type in code",
            r#"{"error":{"code":"exceeded_current_quota_error","type":"invalid_request_error","message":"You exceeded your current quota"}}"#,
            Some(3_600),
        ),
        (
            "V3 Kimi zero seconds",
            r#"{"error":{"type":"rate_limit_reached_error","message":"please try again after 0 seconds"}}"#,
            Some(1),
        ),
        (
            "V3 Kimi a week",
            r#"{"error":{"type":"exceeded_current_quota_error","message":"please try again after 7 days"}}"#,
            Some(86_400),
        ),
        (
            "V3 Kimi Chinese",
            r#"{"error":{"type":"rate_limit_reached_error","message":"请求过于频繁，请在 15 秒后重试"}}"#,
            Some(15),
        ),
        // Neither.
        (
            "V3 any provider's field",
            r#"{"error":{"type":"rate_limit_error","message":"slow down","reset_at":"2026-11-21T23:15:00Z"}}"#,
            cst_7_15,
        ),
        (
            "V3 numbers that are no time",
            r#"{"error":{"type":"rate_limit_error","message":"You have sent 500 requests in 5 minutes, the limit is 100"}}"#,
            None,
        ),
        (
            "V3 a model id with a date",
            r#"{"error":{"type":"rate_limit_error","message":"claude-sonnet-4-5-20250929 is busy"}}"#,
            None,
        ),
        ("V3 empty", "", None),
        ("V3 HTML", "<html><head><title>429 Too Many Requests</title></head></html>", None),
        ("V3 not an object", "[1,2]", None),
        ("V3 null parts", r#"{"error":{"code":null,"message":null,"next_flush_time":null}}"#, None),
        ("V3 error of text", r#"{"error":"try again after 20 seconds"}"#, Some(20)),
    ];
    assert!(table.len() >= 60);
    for (rule, body, expected) in table {
        let wait = wait_of_body(body.as_bytes(), NOW).map(|wait| wait.as_secs());
        assert_eq!(wait, *expected, "{rule}: {body}");
    }
}

#[test]
fn headers_are_asked_before_the_body() {
    use crate::account::limits::headers::report_of_headers;
    use crate::scheduler::time::{Mono, Now};

    let body = br#"{"error":{"code":"1308","message":"no time"}}"#;
    let now = Now { mono: Mono(0), wall: NOW };
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<u64>);
    let table: &[Row<'_>] = &[
        ("V3 retry-after", &[("retry-after", "17")], Some(17)),
        (
            "V3 a full window",
            &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "90")],
            Some(90),
        ),
        ("V3 a window that may be full", &[("x-ratelimit-reset", "90")], Some(90)),
        (
            "V3 a window with room",
            &[("x-ratelimit-remaining", "5"), ("x-ratelimit-reset", "90")],
            Some(3_600),
        ),
        ("V3 a reset that has passed", &[("x-ratelimit-reset", "1795301000")], Some(3_600)),
        ("V3 a reset days away", &[("x-ratelimit-reset", "1796301000")], Some(86_400)),
        ("V3 nothing", &[], Some(3_600)),
    ];
    for (rule, headers, expected) in table {
        let report =
            report_of_headers(headers.iter().map(|(name, value)| (*name, value.as_bytes())), now);
        let wait = wait_of_headers(&report, NOW)
            .or_else(|| wait_of_body(body, NOW))
            .map(|wait| wait.as_secs());
        assert_eq!(wait, *expected, "{rule}");
    }
    assert_eq!(wait_of_headers(&QuotaReport::default(), NOW), None);
}

#[test]
fn no_body_makes_the_reader_panic() {
    let seeds = [
        "您的限额将于2026年11月22日 07:15:00重置 after 5小时30分后",
        "reset at Nov 22nd, 2026 at 7:15:00.123 PM (UTC+8), [1308][x] again in 2h30m",
        r#"{"error":{"code":"1308","message":"reset at 2026-11-22 07:15:00 +08:00","next_flush_time":"明天 下午4点半"}}"#,
    ];
    for seed in seeds {
        let ends = seed.char_indices().map(|(at, _)| at).chain([seed.len()]);
        for cut in ends {
            for extra in ["", "é", "9", "99999999999999999999", ":", "-", "年", "{", "am", "\u{0}"]
            {
                let body = format!("{}{extra}{}", &seed[..cut], &seed[cut..]);
                let _ = wait_of_body(body.as_bytes(), NOW);
                let _ = wait_of_body(&seed.as_bytes()[..cut], NOW);
                let _ = wait_of_body(&seed.as_bytes()[cut.saturating_sub(1)..], NOW);
            }
        }
    }
}

/// Each of these once took minutes, or could: a time may start at every number, and each one was
/// read to the end of the text.
#[test]
fn a_hostile_error_takes_no_time() {
    let begun = std::time::Instant::now();
    for piece in
        ["1s", "1.", "1 ", "after 1s", "reset at 1 ", "2026-1-1", "月1日", "1点", "[1308", "a1"]
    {
        let body = piece.repeat(64 * 1024 / piece.len());
        let wait = wait_of_body(body.as_bytes(), NOW);
        assert!(wait.is_none_or(|wait| wait <= WAIT_MAX), "V3 {piece:?}");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
}
