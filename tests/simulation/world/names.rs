//! Names of variants, for the list of those that have occurred.

use super::*;

pub(super) fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "Outcome::Success",
        Outcome::Neutral => "Outcome::Neutral",
        Outcome::Abandoned => "Outcome::Abandoned",
        Outcome::QuotaRejected { .. } => "Outcome::QuotaRejected",
        Outcome::ServerSide { overload: Overload::Refused429, .. } => "Outcome::ServerSide 429",
        Outcome::ServerSide { overload: Overload::Overloaded529, .. } => "Outcome::ServerSide 529",
        Outcome::ServerError { .. } => "Outcome::ServerError",
        Outcome::Broken { .. } => "Outcome::Broken",
        Outcome::OwnRequest { .. } => "Outcome::OwnRequest",
        Outcome::Unproven { .. } => "Outcome::Unproven",
        Outcome::ModelMissing { .. } => "Outcome::ModelMissing",
        Outcome::Forbidden { .. } => "Outcome::Forbidden",
        Outcome::Network { blame: Blame::Account, .. } => "Outcome::Network",
        Outcome::Network { blame: Blame::Nobody, .. } => "Outcome::Network nobody",
        Outcome::CredentialRefused { .. } => "Outcome::CredentialRefused",
        Outcome::NeedsLogin { .. } => "Outcome::NeedsLogin",
        Outcome::Unusable { .. } => "Outcome::Unusable",
    }
}

pub(super) fn passed_over_name(reason: &PassedOver) -> &'static str {
    match reason {
        PassedOver::Disabled => "PassedOver::Disabled",
        PassedOver::Leaving => "PassedOver::Leaving",
        PassedOver::OtherProfile => "PassedOver::OtherProfile",
        PassedOver::NotBrought => "PassedOver::NotBrought",
        PassedOver::SignedThinking => "PassedOver::SignedThinking",
        PassedOver::NotPinned => "PassedOver::NotPinned",
        PassedOver::AlreadyTried => "PassedOver::AlreadyTried",
        PassedOver::InSuspense => "PassedOver::InSuspense",
        PassedOver::Blocked(_) => "PassedOver::Blocked",
        PassedOver::WindowFull { .. } => "PassedOver::WindowFull",
        PassedOver::LimitReached { .. } => "PassedOver::LimitReached",
        PassedOver::AtBrink => "PassedOver::AtBrink",
        PassedOver::ColdStart => "PassedOver::ColdStart",
        PassedOver::WeekExhausted => "PassedOver::WeekExhausted",
        PassedOver::FamilyExhausted(_) => "PassedOver::FamilyExhausted",
        PassedOver::OverageInUse => "PassedOver::OverageInUse",
        PassedOver::BeingLooked => "PassedOver::BeingLooked",
        PassedOver::AccountFull => "PassedOver::AccountFull",
        PassedOver::PoolFull => "PassedOver::PoolFull",
        PassedOver::Ramping => "PassedOver::Ramping",
        PassedOver::BreakerOpen => "PassedOver::BreakerOpen",
        PassedOver::BreakerProbing => "PassedOver::BreakerProbing",
        PassedOver::BreakerPacing => "PassedOver::BreakerPacing",
    }
}

/// The name of a variant, from its debug text.
pub(super) fn variant(text: &str) -> &str {
    text.split(['(', ' ', '{']).next().unwrap_or(text)
}
