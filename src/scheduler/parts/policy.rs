//! Every setting of the scheduler with its default (SPEC A2), and the constants of its rules.
//!
//! A policy is plain data: the configuration creates one, and `set_policy` applies it at once.

use std::time::Duration;

/// The settings of SPEC A2 that decide where a request goes and how long it may wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `switchThreshold`: used share of a short window from which an account is used last (S3).
    pub switch_threshold: f64,
    /// `scheduler.safetyMaxActivePerAccount`; 0 means no cap.
    pub max_active_per_account: u32,
    /// `scheduler.safetyMaxGlobalActive`; 0 means no cap.
    pub max_active_global: u32,
    /// `scheduler.cooldownMs`: the first cooldown after a 5xx (P7).
    pub cooldown: Duration,
    /// `scheduler.maxCooldownMs`: the longest cooldown after a 5xx, and the longest pause of the
    /// breaker.
    pub max_cooldown: Duration,
    /// `scheduler.networkCooldownMs`.
    pub network_cooldown: Duration,
    /// `scheduler.weeklySoftThreshold` (S4).
    pub weekly_soft: f64,
    /// `scheduler.weeklyReserveThreshold`.
    pub weekly_reserve: f64,
    /// `scheduler.weeklyCriticalThreshold`.
    pub weekly_critical: f64,
    /// `scheduler.weeklyExhaustedThreshold`.
    pub weekly_exhausted: f64,
    /// `scheduler.weeklyBurnDebtWeight` (S4).
    pub weekly_burn_debt_weight: f64,
    /// `scheduler.scarcityWeight` (S6).
    pub scarcity_weight: f64,
    /// `scheduler.spreadShareWeight` (S6).
    pub spread_share_weight: f64,
    /// `scheduler.recoveryRampWeight` (S6).
    pub recovery_ramp_weight: f64,
    /// `scheduler.recoveryRampMs`: how long an account is handicapped after a recovery.
    pub recovery_ramp: Duration,
    /// `scheduler.spreadWindowMs`.
    pub spread_window: Duration,
    /// `scheduler.sessionIdleMs`: a binding that is unused for this long is forgotten (S9).
    pub session_idle: Duration,
    /// `scheduler.overage` (S11).
    pub overage: Overage,
    /// `retry.maxAttemptsPerRequest`; 0 means one pass over the accounts.
    pub max_attempts: u32,
    /// `queue.enabled`: if false, no request is ever held.
    pub queue_enabled: bool,
    /// `queue.maxWaitMs` (Q1).
    pub max_wait: Duration,
    /// `queue.autoMaxWaitMs`; the smaller of this and `max_wait` applies.
    pub auto_max_wait: Option<Duration>,
    /// `queue.capacityMaxWaitMs`.
    pub capacity_max_wait: Duration,
    /// `queue.weeklyMaxWaitMs`; zero fails at once.
    pub weekly_max_wait: Duration,
    /// `queue.networkMaxWaitMs`.
    pub network_max_wait: Duration,
    /// `queue.unprovenMaxWaitMs`: how long a 429 without evidence keeps a request in suspense.
    pub unproven_max_wait: Duration,
    /// `queue.countTokensMaxWaitMs`.
    pub count_tokens_max_wait: Duration,
    /// `queue.nonStreamMaxWaitMs`.
    pub non_stream_max_wait: Duration,
    /// `queue.maxQueuedBodyBytes`: a larger body is not held (P4).
    pub max_queued_body_bytes: u64,
    /// `queue.maxQueuedBytes`: all held bodies added (Q3).
    pub max_queued_bytes: u64,
    /// `queue.maxConcurrentQueued` (Q3).
    pub max_queued: usize,
    /// `queue.pollMs`: the longest time between two checks of the clock while a request waits; at
    /// least [`POLL_MIN`].
    pub poll: Duration,
}

/// What happens to an account whose answers report paid extra usage (S11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overage {
    /// `last`: it serves only what no other account can.
    Last,
    /// `never`: it is not used.
    Never,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            switch_threshold: 0.90,
            max_active_per_account: 50,
            max_active_global: 150,
            cooldown: Duration::from_millis(30_000),
            max_cooldown: Duration::from_millis(900_000),
            network_cooldown: Duration::from_millis(5_000),
            weekly_soft: 0.65,
            weekly_reserve: 0.85,
            weekly_critical: 0.95,
            weekly_exhausted: 0.985,
            weekly_burn_debt_weight: 0.6,
            scarcity_weight: 6.0,
            spread_share_weight: 3.0,
            recovery_ramp_weight: 4.0,
            recovery_ramp: Duration::from_millis(300_000),
            spread_window: Duration::from_millis(900_000),
            session_idle: Duration::from_millis(3_600_000),
            overage: Overage::Last,
            max_attempts: 0,
            queue_enabled: true,
            max_wait: Duration::from_millis(86_400_000),
            auto_max_wait: None,
            capacity_max_wait: Duration::from_millis(900_000),
            weekly_max_wait: Duration::ZERO,
            network_max_wait: Duration::from_millis(15_000),
            unproven_max_wait: Duration::from_millis(60_000),
            count_tokens_max_wait: Duration::from_millis(8_000),
            non_stream_max_wait: Duration::from_millis(240_000),
            max_queued_body_bytes: 268_435_456,
            max_queued_bytes: 1_073_741_824,
            max_queued: 256,
            poll: Duration::from_millis(1_000),
        }
    }
}

/// Sessions remembered (S9); the least recently used is dropped first.
pub const SESSIONS_MAX: usize = 10_000;
/// Threads whose owner is remembered (P10).
pub const THREADS_MAX: usize = 10_000;
/// Decisions kept for status (S12).
pub const DECISIONS_MAX: usize = 50;
/// Characters of an upstream's message that are kept with a block.
pub const MESSAGE_CHARS_MAX: usize = 300;

/// Length of the five-hour window.
pub const FIVE_HOURS: Duration = Duration::from_secs(5 * 3600);
/// Length of the weekly windows.
pub const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// How long a limit without a known end keeps an account out (S2, S3).
pub const UNKNOWN_RESET_WAIT: Duration = Duration::from_secs(60);
/// Bounds of an upstream's `retry-after` (P7).
pub const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// See [`RETRY_AFTER_MIN`].
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);
/// A server-side 429 without `retry-after` (P7).
pub const SERVER_SIDE_WAIT: Duration = Duration::from_secs(5);
/// A 529 without `retry-after`, and the longest time for which a server-side refusal sets an
/// account aside.
pub const SERVER_SIDE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long an account is out if its organization is disabled or has not paid, and avoided if it
/// answered 403 to a request that another account served (P7).
pub const ACCOUNT_WAIT: Duration = Duration::from_secs(30 * 60);
/// How long a model is not requested from an account that does not have it (P7).
pub const MODEL_WAIT: Duration = Duration::from_secs(3_600);
/// Missing models remembered per account; the oldest is dropped first.
pub const MODELS_MISSING_MAX: usize = 16;
/// The rests of a credential after consecutive 401s; later ones double (T2).
pub const RESTS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];
/// The longest rest.
pub const REST_MAX: Duration = Duration::from_secs(900);
/// A rest is waited for if the credential has served within this time (Q1) ...
pub const REST_TRUST: Duration = Duration::from_secs(3_600);
/// ... but for no longer than this.
pub const REST_WAIT_MAX: Duration = Duration::from_secs(30);
/// The first attempt in suspense after a 429 without `retry-after` (P7).
pub const SUSPENSE_LOOK: Duration = Duration::from_secs(5);
/// How long a refusal without evidence counts as consecutive, and can be proven.
pub const SUSPICION_MEMORY: Duration = Duration::from_secs(900);
/// Fingerprints of which an account is suspected at the same time; the oldest is dropped first.
pub const SUSPICIONS_MAX: usize = 8;
/// Accounts remembered as having refused one request.
pub const TRAIL_MAX: usize = 64;
/// Blocks longer than this are tested by one real request each time this interval has passed.
pub const LONG_BLOCK: Duration = Duration::from_secs(6 * 3_600);
/// A usage reading lifts an account's blocks at most once in this time.
pub const READING_LIFTS_EVERY: Duration = Duration::from_secs(3_600);

/// The score of one more failure, fading with the recovery ramp (S6).
pub const FAILURE_WEIGHT: f64 = 5.0;
/// Weights of the score (S6): the work in flight, the pressure on the five hours, and that on the
/// week. The last two apply to the default `scarcityWeight` of 6.
pub const LOAD_WEIGHT: f64 = 0.1;
/// See [`LOAD_WEIGHT`].
pub const FIVE_HOUR_WEIGHT: f64 = 2.0 / 6.0;
/// See [`LOAD_WEIGHT`].
pub const WEEK_WEIGHT: f64 = 5.0 / 6.0;
/// Keeps the pressure finite for a full window, and for one about to end (S5).
pub const PRESSURE_ROOM: f64 = 1.05;

/// How long a prompt stays cached after its last use (S7).
pub const CACHE_LIFETIME: Duration = Duration::from_secs(300);
/// A session whose home is usable returns after this time, whatever it costs. It asks at least once
/// per cache lifetime, both before and after it notices the home, so it is back at most an hour
/// after its home (S7).
pub const HOME_RETURN: Duration = Duration::from_secs(3_600 - 2 * 300);
/// A cached prompt of up to this many tokens is abandoned on a critical account. A longer one is
/// used until it has expired (S4).
pub const CRITICAL_CACHE_MAX: u64 = 16_000;

/// The period whose work gives an account's recent rate (S5).
pub const COST_WINDOW: Duration = Duration::from_secs(15 * 60);
/// A rate is measured once more than this share of a window is used (S5).
pub const RATE_SHARE_MIN: f64 = 0.03;
/// Resets closer than this belong to the same window.
pub const SAME_WINDOW: Duration = Duration::from_secs(3_600);
/// Requests in flight may cost this many times the expected cost (S6).
pub const BRINK_MARGIN: f64 = 3.0;
/// Headers give a used share in hundredths, rounded down.
pub const BRINK_ROUNDING: f64 = 0.005;
/// How long an account at the brink waits for a head (S6).
pub const BRINK_MAX: Duration = Duration::from_secs(5);
/// The share of what is left of the five hours that cold starts may take (S6) ...
pub const COLD_SHARE: f64 = 0.05;
/// ... within this time.
pub const COLD_WINDOW: Duration = Duration::from_secs(600);
/// The longest delay by the cold-start limit or the brink (S6).
pub const RESTRAINED_MAX: Duration = Duration::from_secs(600);
/// The cap of the effective weekly use (S4).
pub const EFFECTIVE_USE_MAX: f64 = 1.5;

/// The earliest start of the next pass of a request that has failed everywhere (Q1), so that
/// cooldowns of zero cannot cause a busy loop.
pub const PASS_PAUSE: Duration = Duration::from_secs(1);
/// The same after a limit of the account: the resulting block has an end given by the API, and a
/// waiting request is served at that end (Q2).
pub const LIMITED_PASS_PAUSE: Duration = Duration::from_millis(50);
/// The shortest interval between two checks of the clock that `queue.pollMs` can set.
pub const POLL_MIN: Duration = Duration::from_millis(10);
/// A request that returns within this time takes its old place (Q6).
pub const RETURN_WITHIN: Duration = Duration::from_secs(60);
/// Places kept for requests that may return.
pub const RETURNS_MAX: usize = 1_024;

/// This many requests that move at the same time are a storm (S10).
pub const STORM_REQUESTS: usize = 5;
/// The interval after which another request is admitted (S10), also between the releases after the
/// breaker closed (P8).
pub const STEP: Duration = Duration::from_millis(250);
/// How long a storm's ramp lasts (S10).
pub const STORM_RAMP: Duration = Duration::from_secs(30);
/// Ends of blocks closer than this are moved apart (S10).
pub const SPREAD_GAP: Duration = Duration::from_secs(1);
/// The most that an end is moved (S10).
pub const SPREAD_MAX: Duration = Duration::from_secs(5);

/// The breaker needs refusals from this many accounts (P8).
pub const BREAKER_ACCOUNTS_MIN: usize = 2;
/// Pauses after failed probes (P8).
pub const BREAKER_REARM: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
    Duration::from_secs(60),
];
/// After this many consecutive failed probes, each account is judged separately again (P8).
pub const BREAKER_PROBES_MAX: u32 = 4;
/// How long the breaker stays inactive after that, unless something succeeds before.
pub const BREAKER_REST: Duration = Duration::from_secs(60);
/// How long requests are released one by one after the breaker closed (P8).
pub const BREAKER_PACING: Duration = Duration::from_secs(5);
/// Older refusals no longer count.
pub const REFUSAL_MEMORY: Duration = Duration::from_secs(60);
/// Model families with a breaker of their own; the least recently used one is dropped first.
pub const BREAKERS_MAX: usize = 16;
/// Refusals kept for the breaker's decision.
pub const REFUSALS_MAX: usize = 512;
