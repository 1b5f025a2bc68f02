//! The shared breaker (SPEC P8): when the API itself is in trouble, one request probes for all.

/// What a server-side refusal says, apart from numbers and ids: equal for the same trouble on different accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Of an error's type and message, without every word that contains a digit.
    #[must_use]
    pub fn of(kind: &str, message: &str) -> Fingerprint {
        let words = message
            .split_whitespace()
            .filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit()));
        let mut hash = FNV_OFFSET;
        for word in std::iter::once(kind).chain(words) {
            for byte in word.bytes().chain(std::iter::once(0)) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
            }
        }
        Fingerprint(hash)
    }
}

/// FNV-1a: equality of short texts is all that is asked of it.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
