//! The identity of an account (SPEC A4): account and organisation, else the name, never the
//! position.

/// Distinguishes accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity<'a> {
    pub(crate) name: &'a str,
    pub(crate) account_uuid: Option<&'a str>,
    pub(crate) org_uuid: Option<&'a str>,
}

impl Identity<'_> {
    /// The same `accountUuid` if both have one, and then the same `orgUuid` too if both have one;
    /// otherwise the same name.
    pub(crate) fn is_same(&self, other: &Identity<'_>) -> bool {
        match (self.account_uuid, other.account_uuid) {
            (Some(mine), Some(theirs)) => {
                let organisation = match (self.org_uuid, other.org_uuid) {
                    (Some(mine), Some(theirs)) => mine == theirs,
                    (None, _) | (_, None) => true,
                };
                mine == theirs && organisation
            }
            (None, _) | (_, None) => self.name == other.name,
        }
    }
}

/// An unused name: `wanted`, else `wanted (organisation)`, else `wanted-2`, `wanted-3`, …
pub(crate) fn free_name(
    wanted: &str,
    organisation: Option<&str>,
    is_taken: impl Fn(&str) -> bool,
) -> String {
    let mut name = wanted.to_owned();
    if let Some(organisation) = organisation
        && is_taken(&name)
    {
        name = format!("{wanted} ({organisation})");
    }
    let mut number = 2_u64;
    while is_taken(&name) {
        name = format!("{wanted}-{number}");
        number += 1;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(
        name: &'static str,
        account: &'static str,
        organisation: &'static str,
    ) -> Identity<'static> {
        let given = |text: &'static str| (!text.is_empty()).then_some(text);
        Identity { name, account_uuid: given(account), org_uuid: given(organisation) }
    }

    #[test]
    fn a4_identity() {
        for (rule, one, other, same) in [
            ("same account", who("a", "u1", ""), who("b", "u1", ""), true),
            (
                "same account, one organisation unknown",
                who("a", "u1", "o1"),
                who("b", "u1", ""),
                true,
            ),
            ("same account and organisation", who("a", "u1", "o1"), who("b", "u1", "o1"), true),
            ("another organisation", who("a", "u1", "o1"), who("a", "u1", "o2"), false),
            ("another account of the same name", who("a", "u1", ""), who("a", "u2", ""), false),
            ("no account on one side, same name", who("a", "u1", "o1"), who("a", "", ""), true),
            (
                "no account on one side, another name",
                who("a", "u1", "o1"),
                who("b", "", "o1"),
                false,
            ),
            ("names alone", who("a", "", ""), who("a", "", ""), true),
        ] {
            assert_eq!(one.is_same(&other), same, "{rule}");
            assert_eq!(other.is_same(&one), same, "{rule}, the other way");
        }
    }

    #[test]
    fn a4_names_are_made_unique() {
        for (wanted, organisation, taken, name) in [
            ("a", None, vec![], "a"),
            ("a", Some("Org"), vec![], "a"),
            ("a", Some("Org"), vec!["a"], "a (Org)"),
            ("a", Some("Org"), vec!["a", "a (Org)"], "a-2"),
            ("a", None, vec!["a", "a-2"], "a-3"),
        ] {
            assert_eq!(free_name(wanted, organisation, |name| taken.contains(&name)), name);
        }
    }
}
