//! What an answer means for its account (SPEC P7), as reported by the classifier.

#![expect(missing_docs, reason = "where a name says it all, a doc would only repeat it")]

use std::time::Duration;

use super::block::Evidence;
use super::quota::QuotaReport;
use super::suspicion::Fingerprint;
use super::trail::Unproven;

/// The head of an answer, passed to `observe` as soon as it arrives.
#[derive(Clone, Debug)]
pub struct HeadReport<'a> {
    /// HTTP status.
    pub status: u16,
    /// What its headers say about quota.
    pub quota: &'a QuotaReport,
    /// Stored with a block, if the head causes one.
    pub evidence: Evidence,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// 2xx or 3xx with a complete body.
    Success,
    /// An answer that says nothing about the account: a 4xx about the request itself, a stream that
    /// broke after its head.
    Neutral,
    /// The answer broke after its first byte.
    Broken { evidence: Evidence },
    /// The client left, or the attempt was given up before it was sent. Blames nobody.
    Abandoned,
    /// The refusal concerns something that this request asks for, and no other request.
    OwnRequest { evidence: Evidence },
    /// 429 for the account's own limit.
    QuotaRejected {
        /// The answer's headers again, with `retry_after` from header or body.
        quota: QuotaReport,
        evidence: Evidence,
    },
    /// A 429 that is server-side according to its message, or a 529.
    ServerSide {
        /// Which of the two.
        overload: Overload,
        /// As sent by the upstream.
        retry_after: Option<Duration>,
        /// For the shared breaker (P8).
        fingerprint: Fingerprint,
        evidence: Evidence,
    },
    /// A 429 without any evidence, a 500, or a 200 that is no valid answer.
    Unproven { unproven: Unproven, fingerprint: Fingerprint, evidence: Evidence },
    /// 502, 503, 504.
    ServerError { fingerprint: Fingerprint, evidence: Evidence },
    /// No answer.
    Network {
        /// Who may be at fault.
        blame: Blame,
        /// What was observed.
        evidence: Evidence,
    },
    /// 401 to a credential that a refresh cannot improve now.
    CredentialRefused { evidence: Evidence },
    /// A refresh was refused for good.
    NeedsLogin { evidence: Evidence },
    /// 402, or a message about billing or a disabled organization.
    Unusable { evidence: Evidence },
    /// The account does not have the model.
    ModelMissing { evidence: Evidence },
    /// 403 that says nothing about the account.
    Forbidden { evidence: Evidence },
}

impl Outcome {
    /// The evidence of a failed attempt.
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

/// The kind of server-side refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// 429.
    Refused429,
    /// 529.
    Overloaded529,
}

/// Who is blamed for a network failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The way to this account's upstream: connect, TLS, reset, header timeout.
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
