//! The API's limit headers with values chosen by a test.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Headers that say how much is used and when it resets.
#[derive(Clone, Default)]
pub struct Limits {
    headers: Vec<(String, String)>,
}

impl Limits {
    /// No header.
    pub fn new() -> Limits {
        Limits::default()
    }

    /// Both unified windows with these used shares, and with resets too far away to matter: three
    /// hours and four days.
    pub fn used(five_hour: f64, seven_day: f64) -> Limits {
        Limits::new()
            .status("allowed")
            .window("5h", five_hour, Duration::from_secs(3 * 3600))
            .window("7d", seven_day, Duration::from_secs(4 * 86400))
    }

    /// A rejection because of the window that `claim` names, which resets in `reset`.
    pub fn rejected(claim: &str, reset: Duration) -> Limits {
        let window = match claim {
            "five_hour" => "5h",
            "seven_day" => "7d",
            other => other,
        };
        Limits::new()
            .status("rejected")
            .claim(claim)
            .header("anthropic-ratelimit-unified-reset", &epoch_in(reset))
            .window(window, 1.0, reset)
            .header(&format!("anthropic-ratelimit-unified-{window}-status"), "rejected")
    }

    /// One unified window: `5h`, `7d`, `7d_oi` …
    #[must_use]
    pub fn window(self, name: &str, used: f64, reset: Duration) -> Limits {
        let prefix = format!("anthropic-ratelimit-unified-{name}");
        self.header(&format!("{prefix}-utilization"), &used.to_string())
            .header(&format!("{prefix}-reset"), &epoch_in(reset))
    }

    /// `anthropic-ratelimit-unified-status`.
    #[must_use]
    pub fn status(self, status: &str) -> Limits {
        self.header("anthropic-ratelimit-unified-status", status)
    }

    /// `anthropic-ratelimit-unified-representative-claim`.
    #[must_use]
    pub fn claim(self, claim: &str) -> Limits {
        self.header("anthropic-ratelimit-unified-representative-claim", claim)
    }

    /// An API key's window: `requests`, `tokens`, `input-tokens`, `output-tokens`.
    #[must_use]
    pub fn counted(self, name: &str, limit: u64, remaining: u64, reset: Duration) -> Limits {
        let prefix = format!("anthropic-ratelimit-{name}");
        self.header(&format!("{prefix}-limit"), &limit.to_string())
            .header(&format!("{prefix}-remaining"), &remaining.to_string())
            .header(&format!("{prefix}-reset"), &rfc3339(SystemTime::now() + reset))
    }

    /// `retry-after` in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Limits {
        self.header("retry-after", &seconds.to_string())
    }

    /// Any header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Limits {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn headers(&self) -> Vec<(String, String)> {
        self.headers.clone()
    }
}

/// Epoch seconds at this time from now; rounded up, so that a reset is never earlier than promised.
pub fn epoch_in(wait: Duration) -> String {
    let at = (SystemTime::now() + wait).duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = at.as_secs() + u64::from(at.subsec_nanos() > 0);
    seconds.to_string()
}

/// RFC 3339 in UTC, whole seconds rounded up.
pub fn rfc3339(at: SystemTime) -> String {
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = at.as_secs() + u64::from(at.subsec_nanos() > 0);
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // A date from a day count as in Howard Hinnant's `civil_from_days`, for years from 1970.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}
