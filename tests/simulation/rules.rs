//! One test for each rule of SPEC S, P and Q, named after it.

mod answers;
mod caring;
mod choosing;
mod staying;
mod suspense;
mod waiting;
mod ways_out;

use std::sync::Arc;
use std::time::Duration;

use maxpool::scheduler::quota::{QuotaReport, Verdict, WindowKind, WindowReading};
use maxpool::scheduler::time::{Mono, Wall};
use maxpool::scheduler::{
    AccountId, AccountLimit, AccountSpec, Avoided, Blame, Block, BlockReason, Cancel, CannotPrefer,
    Effect, End, ExplainedVerdict, Kin, Kind, Limit, Outcome, Overage, PassedOver, Policy,
    RefusalReason, Request, RouteClass, Routing, Scope, SessionKey, Shape, Source, Status,
    ThreadKey, Tier, Unproven, Usage, WaitCause, Wake, Why,
};

use maxpool::scheduler::{Grant, Ticket};

use super::table::{
    START, Table, bare, evidence, family, ms, oauth, print, provider, quota_rejected, refused,
    rejection, report, secs, server_error, set_aside, window,
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Gives both accounts a quiet week, so that only the test decides.
fn quiet_week(table: &mut Table, ids: &[AccountId]) {
    for id in ids {
        let reset = table.wall_after(6 * DAY);
        table.learn(*id, vec![window(WindowKind::SevenDay, 0.0, Some(reset))]);
    }
}

/// An answer from this account says that paid overage is in use.
fn overage(table: &mut Table, id: AccountId) {
    let reset = Some(table.wall_after(HOUR));
    let quota = QuotaReport {
        overage_in_use: Some(true),
        windows: vec![window(WindowKind::FiveHour, 1.0, reset)],
        ..rejection(Some(WindowKind::FiveHour), reset, None)
    };
    answer(table, id, &quota);
}

/// A separate request gets an answer with this head from an account, and ends well.
fn answer(table: &mut Table, id: AccountId, quota: &QuotaReport) {
    let request = Request { pinned: Some(id), ..table.request() };
    let grant = table.granted(request);
    table.head(&grant.lease, 200, quota);
    table.complete(grant.lease, Outcome::Success);
}

fn with_session(table: &mut Table, session: u128) -> Request {
    Request { session: Some(SessionKey(session)), ..table.request() }
}
