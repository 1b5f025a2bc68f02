//! What a target is for: ours, pooled, or somebody else's (P1, P3).

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Answered here, never forwarded.
    Local(Local),
    /// A pooled path.
    Pooled(Pooled),
    /// A message batch: relayed like [`Route::Other`], but an id stays on the account that created it.
    Batches {
        /// The batch's id; absent for create and list.
        id: Option<String>,
    },
    /// The client's own token request (T5): never with a pooled credential.
    OauthToken,
    /// Anything else: the client's own credential if it brought one, else S7.
    Other,
}

/// The pooled paths of P3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooled {
    /// `/v1/messages`.
    Messages,
    /// `/v1/messages/count_tokens`.
    CountTokens,
    /// `/v1/models` and below.
    Models,
    /// `/v1/complete`.
    Complete,
}

/// The local routes of P1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    /// `GET /`, `HEAD /`.
    Root,
    /// `GET /maxpool/status`.
    Status,
    /// `GET /maxpool/metrics`.
    Metrics(Names),
    /// `GET /maxpool/health`.
    Health,
    /// `POST /maxpool/reload`.
    Reload,
    /// `POST /maxpool/routing`.
    Routing,
    /// `POST /maxpool/accounts/<name>/{enable,disable}`.
    Account {
        /// Percent-decoded.
        name: String,
        /// Which of the two.
        to: Switch,
    },
    /// `GET /maxpool/explain?model=&session=&profile=`; an empty value is absent.
    Explain {
        /// `model=`.
        model: Option<String>,
        /// `session=`.
        session: Option<String>,
        /// `profile=`.
        profile: Option<String>,
    },
    /// A known route with another method: 405.
    WrongMethod {
        /// The value of `allow`.
        allow: &'static str,
    },
    /// Anything else below `/maxpool`: 404.
    Unknown,
}

/// Whether metrics may name accounts (`?names=1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Numbers only.
    Hidden,
    /// With names.
    Shown,
}

/// What a control route does to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// `enable`.
    Enable,
    /// `disable`.
    Disable,
}

/// Classifies a target that [`super::door`] has let through.
pub(crate) fn route(_method: &str, _target: &str) -> Route {
    Route::Other
}

impl Local {
    /// Whether the route needs the key from everybody, loopback included (P1).
    pub(crate) fn needs_key(&self) -> bool {
        !matches!(self, Local::Root | Local::Health | Local::Unknown)
    }
}
