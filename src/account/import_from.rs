//! The source of an account (`importFrom`, SPEC T3).

use super::credential::Account;
use super::sources::{SourceLimits, path_of};
use super::surroundings::Shared;
use crate::config::Tokens;
use crate::config::custody::Digest;

/// The tokens of the account's `importFrom`; `None` if it has none.
pub(super) fn read_for(
    shared: &Shared,
    account: &Account,
    limits: SourceLimits,
) -> Result<Option<Tokens>, String> {
    let profile = account.profile();
    let Some(from) = &profile.import_from else {
        return Ok(None);
    };
    let path = path_of(from, shared.around.home.as_deref());
    let path = path.ok_or_else(|| "importFrom names no file".to_owned())?;
    shared.sources.read(&path, limits).map(Some)
}

/// The refresh token in the account's source when it was last read.
pub(super) fn held_by(shared: &Shared, account: &Account) -> Option<Digest> {
    let profile = account.profile();
    let path = path_of(profile.import_from.as_ref()?, shared.around.home.as_deref())?;
    shared.sources.held(&path)
}
