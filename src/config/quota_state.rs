//! The state file's form of quota windows, verdicts and rejections (SPEC A6).

use serde::{Deserialize, Serialize};

use crate::scheduler::quota::{Family, Verdict, WindowKind};
use crate::scheduler::time::Wall;
use crate::scheduler::{KnownRejection, Source, WindowSnapshot};

/// One quota window; times in ms since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct WindowState {
    /// `five_hour`, `seven_day`, `seven_day_<family>`, `tokens`, `requests` or `generic`.
    pub(crate) window: String,
    /// The model family, if the upstream limits families separately.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) family: Option<String>,
    pub(crate) utilisation: Option<f64>,
    pub(crate) limit: Option<u64>,
    pub(crate) remaining: Option<u64>,
    pub(crate) reset: Option<i64>,
    pub(crate) learned_at: i64,
}

/// One rejection; times in ms since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RejectionState {
    /// The window to which it belongs, as in [`WindowState`], if the answer named one.
    pub(crate) window: Option<String>,
    /// The model family whose requests it blocks; `None`: all messages.
    pub(crate) family: Option<String>,
    pub(crate) until: i64,
    pub(crate) said_at: i64,
    /// The answer's HTTP status.
    pub(crate) status: Option<u16>,
}

impl WindowState {
    pub(super) fn new(window: &WindowSnapshot) -> WindowState {
        WindowState {
            window: word_of(&window.kind),
            family: window.family.as_ref().map(|family| family.0.to_string()),
            utilisation: window.raw.or(window.used),
            limit: window.limit,
            remaining: window.remaining,
            reset: window.reset.map(|at| at.0),
            learned_at: window.learned_at.0,
        }
    }

    pub(super) fn restore(&self, now: Wall) -> Option<WindowSnapshot> {
        let reset = self.reset.map(Wall).filter(|reset| *reset > now)?;
        let raw = self.utilisation.filter(|share| share.is_finite() && *share >= 0.0);
        Some(WindowSnapshot {
            kind: kind_of(&self.window)?,
            family: self.family.as_deref().map(|family| Family(family.into())),
            used: raw.map(|share| share.min(1.0)),
            raw,
            limit: self.limit,
            remaining: self.remaining,
            reset: Some(reset),
            learned_at: Wall(self.learned_at),
            source: Source::Restored,
        })
    }
}

impl RejectionState {
    pub(super) fn new(known: &KnownRejection) -> RejectionState {
        RejectionState {
            window: known.window.as_ref().map(word_of),
            family: known.family.as_ref().map(|family| family.0.to_string()),
            until: known.until.0,
            said_at: known.said_at.0,
            status: known.status,
        }
    }

    /// A rejection of a window that this version does not know still blocks the same requests.
    pub(super) fn restore(&self, now: Wall) -> Option<KnownRejection> {
        Some(Wall(self.until)).filter(|until| *until > now).map(|until| KnownRejection {
            window: self.window.as_deref().and_then(kind_of),
            family: self.family.as_deref().map(|family| Family(family.into())),
            until,
            said_at: Wall(self.said_at),
            status: self.status,
        })
    }
}

pub(super) fn word_of_verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::AllowedWarning => "allowed_warning",
        Verdict::Rejected => "rejected",
    }
}

pub(super) fn verdict_of(word: &str) -> Option<Verdict> {
    let all = [Verdict::Allowed, Verdict::AllowedWarning, Verdict::Rejected];
    all.into_iter().find(|verdict| word_of_verdict(*verdict) == word)
}

const SEVEN_DAY_OF: &str = "seven_day_";

fn word_of(kind: &WindowKind) -> String {
    match kind {
        WindowKind::FiveHour => "five_hour".to_owned(),
        WindowKind::SevenDay => "seven_day".to_owned(),
        WindowKind::SevenDayFamily(family) => format!("{SEVEN_DAY_OF}{}", family.0),
        WindowKind::Tokens => "tokens".to_owned(),
        WindowKind::Requests => "requests".to_owned(),
        WindowKind::Generic => "generic".to_owned(),
    }
}

fn kind_of(word: &str) -> Option<WindowKind> {
    Some(match word {
        "five_hour" => WindowKind::FiveHour,
        "seven_day" => WindowKind::SevenDay,
        "tokens" => WindowKind::Tokens,
        "requests" => WindowKind::Requests,
        "generic" => WindowKind::Generic,
        other => {
            let family = other.strip_prefix(SEVEN_DAY_OF).filter(|family| !family.is_empty())?;
            WindowKind::SevenDayFamily(Family(family.into()))
        }
    })
}
