use std::sync::Arc;

use super::super::reply::tests::summary;
use super::*;
use crate::scheduler::quota::WindowKind;
use crate::scheduler::{AccountId, Evidence};

fn standing(name: &str, kind: Kind, reason: PassedOver, wait: Option<u64>) -> Standing {
    let wait = wait.map(Duration::from_secs);
    Standing { account: AccountId(0), name: Arc::from(name), kind, reason, wait, evidence: None }
}

fn five_hours(name: &str, wait: u64) -> Standing {
    let reason = PassedOver::Blocked(BlockReason::Quota(Some(WindowKind::FiveHour)));
    standing(name, Kind::Oauth, reason, Some(wait))
}

fn refusal(reason: RefusalReason, wait: Option<u64>, accounts: Vec<Standing>) -> Refusal {
    let cause = match &reason {
        RefusalReason::Limited(cause) | RefusalReason::TooLargeToHold(cause) => Some(*cause),
        _ => None,
    };
    Refusal { reason, wait: wait.map(Duration::from_secs), cause, accounts }
}

#[test]
fn refusals() {
    use RefusalReason as R;
    let out = || vec![five_hours("work", 8_040), five_hours("home", 90_000)];
    let login =
        || standing("work", Kind::Oauth, PassedOver::Blocked(BlockReason::NeedsLogin), None);
    let provider = || {
        standing("glm", Kind::Provider, PassedOver::Blocked(BlockReason::CredentialRefused), None)
    };
    let names =
        |names: &[&str]| R::CredentialsOnly(names.iter().map(|name| Arc::from(*name)).collect());
    #[rustfmt::skip] // one row a line
    let rows = [
        (refusal(R::NoAccount, None, vec![]), (503, "proxy_error", None, false), "maxpool login"),
        (refusal(R::UnknownProfile, None, vec![]), (400, "invalid_request_error", None, false), "x-maxpool-profile"),
        (refusal(R::NoneEnabled, None, vec![]), (503, "proxy_error", None, false), "maxpool enable"),
        (refusal(R::Limited(WaitCause::Quota), Some(8_040), out()), (429, "rate_limit_error", Some(8_040), false), "no account has quota left; the first of 2 is back in 2h 14m (work: five-hour limit reached, in 2h 14m; home: five-hour limit reached, in 1d 1h)"),
        (refusal(R::Limited(WaitCause::Quota), Some(59), out()), (429, "rate_limit_error", Some(59), true), "back in 59s"),
        (refusal(R::Limited(WaitCause::Weekly), None, out()), (429, "rate_limit_error", None, false), "used up its week; it is not known when the first of 2 will be back"),
        (refusal(R::Limited(WaitCause::Capacity), None, out()), (529, "overloaded_error", None, true), "no account can serve now"),
        (refusal(R::Limited(WaitCause::Network), Some(5), vec![login()]), (503, "connection_unavailable", Some(5), true), "back in 5s"),
        (refusal(names(&["work"]), None, vec![login()]), (502, "account_auth_error", None, false), "no account has a working credential (work: needs login): run `maxpool login`"),
        (refusal(names(&["glm"]), None, vec![provider()]), (502, "provider_auth_error", None, false), "glm: refused by the API"),
        (refusal(names(&["work", "glm"]), None, vec![login(), provider()]), (502, "account_auth_error", None, false), "again, or correct the provider's token"),
        (refusal(R::QueueFull, Some(30), out()), (429, "rate_limit_error", Some(30), true), "queue full"),
        (refusal(R::TooLargeToHold(WaitCause::Quota), Some(30), out()), (429, "rate_limit_error", Some(30), true), "queue.maxQueuedBodyBytes"),
        (refusal(R::ThinkingNeedsClaude, None, out()), (503, "proxy_error", None, false), "signed"),
        (refusal(R::ThreadElsewhere, None, out()), (400, "invalid_request_error", None, false), "whole conversation"),
        (refusal(R::Draining, None, vec![]), (503, "restart_in_progress", Some(1), true), "restarting"),
        (refusal(R::AttemptsExhausted, None, out()), (502, "proxy_error", None, false), "attempts"),
    ];
    for (refusal, expected, text) in rows {
        let reply = refused(&refusal);
        assert_eq!(summary(&reply), expected, "P14 {:?}", refusal.reason);
        assert!(reply.message.contains(text), "P14 {:?}: {}", refusal.reason, reply.message);
    }
    let thread = refused(&refusal(R::ThreadElsewhere, None, vec![]));
    assert_eq!(thread.error_code, Some("thread_unsupported_request"), "P10");
    let claude = Refusal {
        cause: Some(WaitCause::Quota),
        ..refusal(R::ThinkingNeedsClaude, Some(7_200), out())
    };
    let reply = refused(&claude);
    assert_eq!(summary(&reply), (429, "rate_limit_error", Some(7_200), false), "P9");
    assert!(
        reply.message.contains(
            "sent to a provider; no account has quota left; the first of 2 is back in 2h"
        ),
        "{}",
        reply.message
    );
}

#[test]
fn waits_that_are_over() {
    let limited = |cause| {
        refusal(RefusalReason::Limited(cause), Some(7_200), vec![five_hours("work", 7_200)])
    };
    #[rustfmt::skip] // one row a line
    let rows = [
        ("Q6", Limit::ClientTolerance, WaitCause::Quota, (529, "overloaded_error", Some(1), true)),
        ("Q6", Limit::ClientTolerance, WaitCause::Network, (529, "overloaded_error", Some(1), true)),
        ("Q6 for good", Limit::WaitLimit, WaitCause::Quota, (429, "rate_limit_error", Some(7_200), false)),
        ("Q6 for good", Limit::WaitLimit, WaitCause::Capacity, (429, "rate_limit_error", Some(7_200), false)),
        ("P7 network", Limit::WaitLimit, WaitCause::Network, (503, "connection_unavailable", Some(7_200), false)),
    ];
    for (rule, limit, cause, expected) in rows {
        assert_eq!(summary(&expired(limit, &limited(cause))), expected, "{rule} {cause:?}");
    }
    let reply = expired(Limit::ClientTolerance, &limited(WaitCause::Quota));
    let text = "still waiting for an account: no account has quota left; back in 2h \
                (work: five-hour limit reached, in 2h); retry at once to keep the place in the \
                queue";
    assert_eq!(reply.message, text, "P14");
}

#[test]
fn long_lists_are_cut() {
    let accounts = (0..9).map(|n| five_hours(&format!("a{n}"), 60)).collect();
    let reply = refused(&refusal(RefusalReason::Limited(WaitCause::Quota), Some(60), accounts));
    assert!(
        reply.message.ends_with("a5: five-hour limit reached, in 1m; and 3 more)"),
        "{}",
        reply.message
    );
}

#[test]
fn a_forbidden_account_tells_why() {
    let evidence = Some(Arc::new(Evidence {
        message: Arc::from("organization disabled"),
        ..Evidence::default()
    }));
    let reason = PassedOver::Blocked(BlockReason::Unusable);
    let account = Standing { evidence, ..standing("work", Kind::ApiKey, reason, None) };
    let reply = refused(&refusal(
        RefusalReason::CredentialsOnly(vec![Arc::from("work")]),
        None,
        vec![account],
    ));
    assert!(
        reply
            .message
            .contains("work: the API says the account cannot be used, \"organization disabled\""),
        "P7 {}",
        reply.message
    );
}
