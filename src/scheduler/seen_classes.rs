//! Caches what one pass over the queue has found out about classes of requests, so that it asks
//! only once for all that are alike.

use std::sync::Arc;
use std::time::Duration;

use super::parts::cost::PromptCache;
use super::parts::id::{AccountId, RouteClass};
use super::parts::policy::RESTRAINED_MAX;
use super::parts::quota::Family;
use super::parts::time::Now;
use super::parts::wait_limits::Outlook;
use super::select::{Ask, Patience, Restraint, Route};

/// The classes of requests for which this pass has found no account: the next request of such a
/// class need not ask again.
#[derive(Debug, Default)]
pub(super) struct SeenClasses {
    pub(super) classes: Vec<Class>,
    /// How many waiting requests this pass has decided.
    pub(super) judged: usize,
}

#[derive(Debug)]
pub(super) struct Class {
    profile: Arc<str>,
    class: RouteClass,
    model: Option<Arc<str>>,
    family: Option<Family>,
    thinking: bool,
    route: Route,
    brought: Vec<AccountId>,
    patience: Patience,
    restraint: Restraint,
    /// The cold-start limit or the brink held back a request of this cost. A cheaper one, or one
    /// with a cache somewhere, may still be served.
    pub(super) restrained_from: Option<u64>,
    pub(super) outlooks: Vec<Outlook>,
}

impl SeenClasses {
    /// The longest delay by a restraint for the current request. Requests that are delayed together
    /// are not released together, because that would be a storm.
    pub(super) fn kept_at_most(&self, queued: usize) -> Duration {
        let turn = self.judged as f64 / queued.max(1) as f64;
        RESTRAINED_MAX.mul_f64(turn.min(1.0))
    }

    pub(super) fn class(&self, now: Now, ask: &Ask<'_>) -> Option<usize> {
        let restrained = |from: u64| ask.cost(PromptCache::Cold) < from || ask.is_cached(now.mono);
        let alike = |class: &Class| {
            *class.profile == *ask.profile
                && class.class == ask.class
                && class.model.as_ref() == ask.model
                && class.family.as_ref() == ask.family
                && class.thinking == ask.thinking
                && class.route == ask.route
                && class.brought == ask.brought
                && class.patience == ask.patience
                && class.restraint == ask.restraint
                && !class.restrained_from.is_some_and(restrained)
        };
        self.classes.iter().position(alike).filter(|_| is_like_others(ask))
    }

    pub(super) fn remember(&mut self, ask: &Ask<'_>, kept: bool, outlooks: &[Outlook]) {
        if !is_like_others(ask) {
            return;
        }
        self.classes.push(Class {
            profile: Arc::from(ask.profile),
            class: ask.class,
            model: ask.model.cloned(),
            family: ask.family.cloned(),
            thinking: ask.thinking,
            route: ask.route,
            brought: ask.brought.to_vec(),
            patience: ask.patience,
            restraint: ask.restraint,
            restrained_from: kept.then(|| ask.cost(PromptCache::Cold)),
            outlooks: outlooks.to_vec(),
        });
    }
}

/// Whether the result for this request is the same for all requests of its class.
fn is_like_others(ask: &Ask<'_>) -> bool {
    ask.tried.is_empty() && ask.trail.is_empty()
}
