//! Every setting of the scheduler, with the defaults of SPEC A2, and the fixed numbers of its
//! rules.
//!
//! A policy is plain data: the configuration makes one, and `set_policy` puts it into effect at
//! once.

use std::time::Duration;

/// The settings of SPEC A2 that decide where a request goes and how long it may wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `switchThreshold`: used share of a short window from which on an account is used last (S3).
    pub switch_threshold: f64,
    /// `scheduler.safetyMaxActivePerAccount`; 0 means no cap.
    pub max_active_per_account: u32,
    /// `scheduler.safetyMaxGlobalActive`; 0 means no cap.
    pub max_active_global: u32,
    /// `scheduler.cooldownMs`: the first cooldown after a 5xx (P7).
    pub cooldown: Duration,
    /// `scheduler.maxCooldownMs`: the longest cooldown after 5xx, and the longest pause of the
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
    /// `scheduler.recoveryRampMs`: how long a recovery costs.
    pub recovery_ramp: Duration,
    /// `scheduler.spreadWindowMs`.
    pub spread_window: Duration,
    /// `scheduler.sessionIdleMs`: a binding unused that long is forgotten (S9).
    pub session_idle: Duration,
    /// `scheduler.overage` (S11).
    pub overage: Overage,
    /// `retry.maxAttemptsPerRequest`; 0 means one pass over the accounts.
    pub max_attempts: u32,
    /// `queue.enabled`: without it nothing is ever held.
    pub queue_enabled: bool,
    /// `queue.maxWaitMs` (Q1).
    pub max_wait: Duration,
    /// `queue.autoMaxWaitMs`; the smaller of this and `max_wait` holds.
    pub auto_max_wait: Option<Duration>,
    /// `queue.capacityMaxWaitMs`.
    pub capacity_max_wait: Duration,
    /// `queue.weeklyMaxWaitMs`; zero fails fast.
    pub weekly_max_wait: Duration,
    /// `queue.networkMaxWaitMs`.
    pub network_max_wait: Duration,
    /// `queue.unprovenMaxWaitMs`: how long a 429 without evidence keeps its request in suspense.
    pub unproven_max_wait: Duration,
    /// `queue.countTokensMaxWaitMs`.
    pub count_tokens_max_wait: Duration,
    /// `queue.nonStreamMaxWaitMs`.
    pub non_stream_max_wait: Duration,
    /// `queue.maxQueuedBodyBytes`: a larger body is not held (P4).
    pub max_queued_body_bytes: u64,
    /// `queue.maxQueuedBytes`: all held bodies together (Q3).
    pub max_queued_bytes: u64,
    /// `queue.maxConcurrentQueued` (Q3).
    pub max_queued: usize,
    /// `queue.pollMs`: the longest time between two looks at the clock while a request waits; at
    /// least [`POLL_MIN`].
    pub poll: Duration,
}

/// What becomes of an account whose answers say that paid extra usage is in use (S11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overage {
    /// `last`: it serves what no other account can.
    Last,
    /// `never`: it is left out.
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

/// Sessions remembered (S9); the least recently used goes first.
pub const SESSIONS_MAX: usize = 10_000;
/// Threads whose owner is remembered (P10).
pub const THREADS_MAX: usize = 10_000;
/// Decisions kept for status (S12).
pub const DECISIONS_MAX: usize = 50;
/// Characters kept of an upstream's message beside a block.
pub const MESSAGE_CHARS_MAX: usize = 300;

/// Length of the five-hour window.
pub const FIVE_HOURS: Duration = Duration::from_secs(5 * 3600);
/// Length of the weekly windows.
pub const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// A limit whose end nobody told keeps an account out that long (S2, S3).
pub const UNKNOWN_RESET_WAIT: Duration = Duration::from_secs(60);
/// The least and the most that an upstream's `retry-after` counts for (P7).
pub const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// See [`RETRY_AFTER_MIN`].
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);
/// A server-side 429 without `retry-after` (P7).
pub const SERVER_SIDE_WAIT: Duration = Duration::from_secs(5);
/// A 529 without `retry-after`, and the longest that a server-side refusal sets an account aside.
pub const SERVER_SIDE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long an account is out whose organization is disabled or has not paid, and avoided that
/// answered 403 to a request that another account served (P7).
pub const ACCOUNT_WAIT: Duration = Duration::from_secs(30 * 60);
/// How long a model that an account does not have is not asked for there (P7).
pub const MODEL_WAIT: Duration = Duration::from_secs(3_600);
/// Models that an account does not have, remembered per account; the oldest goes first.
pub const MODELS_MISSING_MAX: usize = 16;
/// The rests of a credential after 401s in a row; from then on they double (T2).
pub const RESTS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];
/// The longest of them.
pub const REST_MAX: Duration = Duration::from_secs(900);
/// A rest is waited for if the credential has served within this time (Q1) ...
pub const REST_TRUST: Duration = Duration::from_secs(3_600);
/// ... and for so long.
pub const REST_WAIT_MAX: Duration = Duration::from_secs(30);
/// The first look in suspense after a 429 without `retry-after` (P7).
pub const SUSPENSE_LOOK: Duration = Duration::from_secs(5);
/// A refusal without evidence is part of the same row, and can be proven, for so long.
pub const SUSPICION_MEMORY: Duration = Duration::from_secs(900);
/// Fingerprints that an account is suspected of at once; the oldest goes first.
pub const SUSPICIONS_MAX: usize = 8;
/// Accounts that refused one request; more are not remembered.
pub const TRAIL_MAX: usize = 64;
/// Blocks longer than this are looked at by one real request whenever this time is over.
pub const LONG_BLOCK: Duration = Duration::from_secs(6 * 3_600);
/// A usage reading lifts an account's blocks once in this time at most.
pub const READING_LIFTS_EVERY: Duration = Duration::from_secs(3_600);

/// One more failure costs this much score, fading with the recovery ramp (S6).
pub const FAILURE_WEIGHT: f64 = 5.0;
/// Weights of the score (S6): of the work in flight, of the pressure on the five hours and on the
/// week. The last two are for `scarcityWeight` at its default of 6.
pub const LOAD_WEIGHT: f64 = 0.1;
/// See [`LOAD_WEIGHT`].
pub const FIVE_HOUR_WEIGHT: f64 = 2.0 / 6.0;
/// See [`LOAD_WEIGHT`].
pub const WEEK_WEIGHT: f64 = 5.0 / 6.0;
/// Keeps the pressure of a full window, and of one about to end, finite (S5).
pub const PRESSURE_ROOM: f64 = 1.05;

/// How long a prompt stays cached after it was used last (S7).
pub const CACHE_LIFETIME: Duration = Duration::from_secs(300);
/// A session that found its home usable goes back after that long, whatever it costs. It asks at
/// least once in a cache's lifetime, before it finds that and after, so that it is back an hour
/// after its home at the latest (S7).
pub const HOME_RETURN: Duration = Duration::from_secs(3_600 - 2 * 300);
/// A cached prompt of up to this many tokens is left behind on a critical account. A longer one is
/// used until it has gone cold (S4).
pub const CRITICAL_CACHE_MAX: u64 = 16_000;

/// What an account was asked to do lately is the work of this long (S5).
pub const COST_WINDOW: Duration = Duration::from_secs(15 * 60);
/// A rate is measured once more than this share of a window was used (S5).
pub const RATE_SHARE_MIN: f64 = 0.03;
/// Resets closer than this belong to the same window.
pub const SAME_WINDOW: Duration = Duration::from_secs(3_600);
/// What is in flight may cost this many times what is expected (S6).
pub const BRINK_MARGIN: f64 = 3.0;
/// Headers give a used share in hundredths, rounded down.
pub const BRINK_ROUNDING: f64 = 0.005;
/// An account at the brink waits at most that long for a head (S6).
pub const BRINK_MAX: Duration = Duration::from_secs(5);
/// Cold starts take this share of what is left of the five hours (S6) ...
pub const COLD_SHARE: f64 = 0.05;
/// ... within this time.
pub const COLD_WINDOW: Duration = Duration::from_secs(600);
/// Nobody waits longer than this for a cold start or the brink (S6).
pub const RESTRAINED_MAX: Duration = Duration::from_secs(600);
/// The cap of the effective weekly use (S4).
pub const EFFECTIVE_USE_MAX: f64 = 1.5;

/// A request that has failed everywhere starts its next pass no sooner (Q1), so that cooldowns of
/// zero cannot spin.
pub const PASS_PAUSE: Duration = Duration::from_secs(1);
/// The same after a limit of the account: the block that it leaves has an end that the API told,
/// and whoever waits for it is served at that end (Q2).
pub const LIMITED_PASS_PAUSE: Duration = Duration::from_millis(50);
/// The shortest time between two looks at the clock that `queue.pollMs` can ask for.
pub const POLL_MIN: Duration = Duration::from_millis(10);
/// Who comes back within this time takes the old place (Q6).
pub const RETURN_WITHIN: Duration = Duration::from_secs(60);
/// Places kept for those who may come back.
pub const RETURNS_MAX: usize = 1_024;

/// This many requests moved at once are a storm (S10).
pub const STORM_REQUESTS: usize = 5;
/// One more request at a time after each of these (S10), and between the releases after the breaker
/// closed (P8).
pub const STEP: Duration = Duration::from_millis(250);
/// How long a storm's ramp lasts (S10).
pub const STORM_RAMP: Duration = Duration::from_secs(30);
/// Ends of blocks closer than this are moved apart (S10).
pub const SPREAD_GAP: Duration = Duration::from_secs(1);
/// By at most this much (S10).
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
/// After this many failed probes in a row each account is judged by itself again (P8).
pub const BREAKER_PROBES_MAX: u32 = 4;
/// How long after that the breaker stays out of it, unless something succeeds before.
pub const BREAKER_REST: Duration = Duration::from_secs(60);
/// How long requests follow one by one after it closed (P8).
pub const BREAKER_PACING: Duration = Duration::from_secs(5);
/// Refusals older than this say nothing about now.
pub const REFUSAL_MEMORY: Duration = Duration::from_secs(60);
/// Model families that have a breaker of their own; the one that rested longest goes first.
pub const BREAKERS_MAX: usize = 16;
/// Refusals kept for the breaker's judgement.
pub const REFUSALS_MAX: usize = 512;
