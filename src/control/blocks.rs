//! Blocks in force, as one process tells them to the one that takes over.
//!
//! Without them the new process would send each account that is out one more request to learn the
//! same again. A block that ends with a new credential, or that is about the credential, is not
//! told: the new process reads the credentials anew, and judges them by itself.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Identity;
use crate::config::state::{kind_of, word_of};
use crate::event::labels;
use crate::proxy::context::Context;
use crate::scheduler::quota::Family;
use crate::scheduler::time::{Now, Wall};
use crate::scheduler::{Block, BlockReason, End, Evidence, RouteClass, Scope};

/// Blocks that are told, and characters of the upstream's words with each: all of them fit into one
/// message between processes, beside the sessions.
const BLOCKS_MAX: usize = 40;
const MESSAGE_CHARS_MAX: usize = 150;

/// One block of one account.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct BlockTold {
    name: String,
    account_uuid: Option<String>,
    org_uuid: Option<String>,
    /// As the metrics label it.
    reason: String,
    window: Option<String>,
    /// For whom: `account`, a route class, `family` or `model`.
    scope: String,
    /// The family or the model.
    of: Option<String>,
    /// The time left on the monotonic clock, and the end on the wall clock.
    left_ms: Option<u64>,
    until: Option<i64>,
    status: Option<u16>,
    request_id: Option<String>,
    source: String,
    at: i64,
    message: String,
}

/// The blocks that the next process is told.
pub(super) fn in_force(context: &Context) -> Vec<BlockTold> {
    let mut told = Vec::new();
    for account in context.accounts.all().iter() {
        let profile = account.profile();
        let (now, blocks) =
            context.gate.look(|scheduler, now| (now, scheduler.blocks(now, account.id())));
        let who = profile.identity();
        told.extend(blocks.iter().filter_map(|block| BlockTold::of(&who, block, now)));
    }
    told.truncate(BLOCKS_MAX);
    told
}

/// Places the blocks that another process has told.
pub(super) fn recall(context: &Context, told: &[BlockTold]) {
    let accounts = context.accounts.all();
    for told in told {
        let who = told.identity();
        let Some(account) = accounts.iter().find(|it| it.profile().identity().is_same(&who)) else {
            continue;
        };
        let id = account.id();
        context.gate.with(|scheduler, now| {
            if let Some(block) = told.block(now) {
                scheduler.recall_block(now, id, block);
            }
        });
    }
}

impl BlockTold {
    fn of(who: &Identity<'_>, block: &Block, now: Now) -> Option<BlockTold> {
        let End::At { mono, wall } = block.end else {
            return None;
        };
        let reason = labels::block_reason(&block.reason);
        reason_of(reason, None)?;
        let window = match &block.reason {
            BlockReason::Quota(kind) => kind.as_ref().map(word_of),
            _ => None,
        };
        let (scope, of) = words_of(&block.scope);
        let evidence = &block.evidence;
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Some(BlockTold {
            name: who.name.to_owned(),
            account_uuid: who.account_uuid.map(str::to_owned),
            org_uuid: who.org_uuid.map(str::to_owned),
            reason: reason.to_owned(),
            window,
            scope: scope.to_owned(),
            of: of.map(str::to_owned),
            left_ms: mono.map(|at| ms(at.since(now.mono))),
            until: wall.map(|at| at.0),
            status: evidence.status,
            request_id: evidence.request_id.as_deref().map(str::to_owned),
            source: evidence.source.to_string(),
            at: evidence.at.0,
            message: evidence.message.chars().take(MESSAGE_CHARS_MAX).collect(),
        })
    }

    fn identity(&self) -> Identity<'_> {
        Identity {
            name: &self.name,
            account_uuid: self.account_uuid.as_deref(),
            org_uuid: self.org_uuid.as_deref(),
        }
    }

    fn block(&self, now: Now) -> Option<Block> {
        let end = End::At {
            mono: self.left_ms.map(|left| now.mono + Duration::from_millis(left)),
            wall: self.until.map(Wall),
        };
        if end.has_passed(now) {
            return None;
        }
        Some(Block {
            reason: reason_of(&self.reason, self.window.as_deref())?,
            end,
            scope: scope_of(&self.scope, self.of.as_deref())?,
            evidence: Arc::new(Evidence {
                status: self.status,
                request_id: self.request_id.as_deref().map(Arc::from),
                source: Arc::from(self.source.as_str()),
                at: Wall(self.at),
                message: Arc::from(self.message.as_str()),
            }),
        })
    }
}

/// The reason that this word stands for, of those that are told.
fn reason_of(word: &str, window: Option<&str>) -> Option<BlockReason> {
    Some(match word {
        "quota" => BlockReason::Quota(window.and_then(kind_of)),
        "server_side" => BlockReason::ServerSide,
        "overloaded" => BlockReason::Overloaded,
        "server_error" => BlockReason::ServerError,
        "network" => BlockReason::Network,
        "unusable" => BlockReason::Unusable,
        "model_missing" => BlockReason::ModelMissing,
        _ => return None,
    })
}

/// A scope in a word, and what it is about.
fn words_of(scope: &Scope) -> (&'static str, Option<&str>) {
    match scope {
        Scope::Account => ("account", None),
        Scope::Class(class) => (labels::route_class(*class), None),
        Scope::Family(Family(family)) => ("family", Some(family)),
        Scope::Model(model) => ("model", Some(model)),
    }
}

fn scope_of(word: &str, of: Option<&str>) -> Option<Scope> {
    Some(match (word, of) {
        ("account", None) => Scope::Account,
        ("family", Some(family)) => Scope::Family(Family(family.into())),
        ("model", Some(model)) => Scope::Model(model.into()),
        (word, _) => Scope::Class(
            RouteClass::ALL.into_iter().find(|class| labels::route_class(*class) == word)?,
        ),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::document;
    use crate::scheduler::quota::WindowKind;
    use crate::scheduler::time::Mono;

    fn told_and_read(block: &Block) -> Option<Block> {
        let told_at = Now { mono: Mono(10_000), wall: Wall(1_000_000) };
        let read_at = Now { mono: Mono(500), wall: Wall(1_000_200) };
        let who = Identity { name: "work", account_uuid: Some("u"), org_uuid: None };
        let told = BlockTold::of(&who, block, told_at)?;
        let json = serde_json::to_string(&told).unwrap();
        let read: BlockTold = document::read(json.as_bytes()).unwrap();
        assert_eq!(read, told);
        read.block(read_at)
    }

    #[test]
    fn each_block_that_is_not_about_a_credential_comes_back_as_it_was() {
        let evidence = Arc::new(Evidence {
            status: Some(429),
            request_id: Some("req_1".into()),
            source: "retry-after: 9".into(),
            at: Wall(999_000),
            message: "no more".into(),
        });
        let block = |reason: BlockReason, scope: Scope| Block {
            reason,
            scope,
            end: End::At { mono: Some(Mono(19_000)), wall: Some(Wall(2_000_000)) },
            evidence: Arc::clone(&evidence),
        };
        let opus = || Family("opus".into());
        for (reason, scope) in [
            (BlockReason::Quota(Some(WindowKind::FiveHour)), Scope::Account),
            (BlockReason::Quota(Some(WindowKind::SevenDayFamily(opus()))), Scope::Family(opus())),
            (BlockReason::Quota(None), Scope::Class(RouteClass::CountTokens)),
            (BlockReason::ServerSide, Scope::Class(RouteClass::Messages)),
            (BlockReason::Overloaded, Scope::Class(RouteClass::Models)),
            (BlockReason::ServerError, Scope::Class(RouteClass::Rest)),
            (BlockReason::Network, Scope::Account),
            (BlockReason::Unusable, Scope::Account),
            (BlockReason::ModelMissing, Scope::Model("claude-opus-4-8".into())),
        ] {
            let given = block(reason, scope);
            // The monotonic clock of another process begins elsewhere.
            let end = End::At { mono: Some(Mono(9_500)), wall: Some(Wall(2_000_000)) };
            assert_eq!(told_and_read(&given), Some(Block { end, ..given }));
        }
        for reason in [
            BlockReason::CredentialRefused,
            BlockReason::NeedsLogin,
            BlockReason::RefreshFailed,
            BlockReason::RefreshNetwork,
        ] {
            assert_eq!(told_and_read(&block(reason, Scope::Account)), None);
        }
        let endless =
            Block { end: End::CredentialChange, ..block(BlockReason::Unusable, Scope::Account) };
        assert_eq!(told_and_read(&endless), None);
        let past = Block {
            end: End::At { mono: None, wall: Some(Wall(1_000_100)) },
            ..block(BlockReason::Quota(None), Scope::Account)
        };
        assert_eq!(told_and_read(&past), None);
    }
}
