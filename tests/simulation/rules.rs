//! One test a rule of SPEC S, P and Q, named after it.

mod answers;
mod choosing;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use maxpool::scheduler::quota::{QuotaReport, Verdict, WindowKind, WindowReading};
use maxpool::scheduler::time::{Mono, Wall};
use maxpool::scheduler::{
    AccountId, AccountSpec, Blame, Block, BlockReason, Cancel, CannotPrefer, End, ExplainedVerdict,
    Kind, Limit, Outcome, Overage, PassedOver, Policy, RefusalReason, Request, Routing, Scope,
    SessionKey, Shape, Source, Status, ThreadKey, Tier, Usage, WaitCause, Wake, Why,
};

use super::table::{
    START, Table, evidence, family, ms, oauth, provider, quota_rejected, refused, rejection,
    report, secs, server_error, window,
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Both accounts know a quiet week, so that nothing but the test decides.
fn quiet_week(table: &mut Table, ids: &[AccountId]) {
    for id in ids {
        let reset = table.wall_after(6 * DAY);
        table.learn(*id, vec![window(WindowKind::SevenDay, 0.0, Some(reset))]);
    }
}

fn with_session(table: &mut Table, session: u128) -> Request {
    Request { session: Some(SessionKey(session)), ..table.request() }
}
