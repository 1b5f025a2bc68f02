//! What an answer means to its account (SPEC P7), as the classifier tells it to the scheduler.

#![expect(missing_docs, reason = "where a name says it all, a doc would only repeat it")]

use std::time::Duration;

use super::block::Evidence;
use super::quota::QuotaReport;
use super::suspicion::Fingerprint;
use super::trail::Unproven;

/// The head of an answer, told to `observe` as soon as it is there.
#[derive(Clone, Debug)]
pub struct HeadReport<'a> {
    /// HTTP status.
    pub status: u16,
    /// What its headers said of quota.
    pub quota: &'a QuotaReport,
    /// Kept beside a block, if the head causes one.
    pub evidence: Evidence,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// 2xx or 3xx whose body ended well.
    Success,
    /// Any answer that says nothing about the account: 4xx of the request's own, a stream that
    /// broke after its head.
    Neutral,
    /// The answer broke after its first byte.
    Broken { evidence: Evidence },
    /// The client left, or the attempt was given up before it was sent. Blames nobody.
    Abandoned,
    /// The refusal names what this request asks for: nobody else is concerned.
    OwnRequest { evidence: Evidence },
    /// 429 for the account's own limit.
    QuotaRejected {
        /// The answer's headers once more, `retry_after` from header or body.
        quota: QuotaReport,
        evidence: Evidence,
    },
    /// 429 that is server-side by its words, or 529.
    ServerSide {
        /// Which one of the two.
        overload: Overload,
        /// As the upstream said it.
        retry_after: Option<Duration>,
        /// For the shared breaker (P8).
        fingerprint: Fingerprint,
        evidence: Evidence,
    },
    /// 429 without any evidence, 500, or a 200 that is no answer.
    Unproven { unproven: Unproven, fingerprint: Fingerprint, evidence: Evidence },
    /// 502, 503, 504.
    ServerError { fingerprint: Fingerprint, evidence: Evidence },
    /// No answer.
    Network {
        /// Whose fault it can be.
        blame: Blame,
        /// What was seen.
        evidence: Evidence,
    },
    /// 401 to a credential that no refresh can better now.
    CredentialRefused { evidence: Evidence },
    /// A refresh that was refused for good.
    NeedsLogin { evidence: Evidence },
    /// 402, or words about billing or a disabled organization.
    Unusable { evidence: Evidence },
    /// The account does not have the model.
    ModelMissing { evidence: Evidence },
    /// 403 that says nothing about the account.
    Forbidden { evidence: Evidence },
}

impl Outcome {
    /// What is kept of the answer, if it was a failure.
    #[must_use]
    pub fn evidence(&self) -> Option<&Evidence> {
        match self {
            Outcome::Broken { evidence }
            | Outcome::OwnRequest { evidence }
            | Outcome::QuotaRejected { evidence, .. }
            | Outcome::ServerSide { evidence, .. }
            | Outcome::Unproven { evidence, .. }
            | Outcome::ServerError { evidence, .. }
            | Outcome::Network { evidence, .. }
            | Outcome::CredentialRefused { evidence }
            | Outcome::NeedsLogin { evidence }
            | Outcome::Unusable { evidence }
            | Outcome::ModelMissing { evidence }
            | Outcome::Forbidden { evidence } => Some(evidence),
            Outcome::Success | Outcome::Neutral | Outcome::Abandoned => None,
        }
    }
}

/// Which server-side refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// 429.
    Refused429,
    /// 529.
    Overloaded529,
}

/// Whom a network failure is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The way to this account's upstream: connect, TLS, reset, header time-out.
    Account,
    /// Nobody: a failed name look-up.
    Nobody,
}

/// Tokens of one answer (P13), added to the account's totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// `input_tokens`.
    pub input: u64,
    /// `output_tokens`.
    pub output: u64,
    /// `cache_read_input_tokens`.
    pub cache_read: u64,
    /// `cache_creation_input_tokens`.
    pub cache_write: u64,
}
