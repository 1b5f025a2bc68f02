//! Sorting a few things: as many as there are accounts, or windows of one.
//!
//! The sorts of the standard library are made for long lists, and each type that is sorted costs 4 KB of program.

use std::cmp::Ordering;

/// Sorts by insertion; equals stay in order.
pub(super) fn sort_by<T>(items: &mut [T], order: impl Fn(&T, &T) -> Ordering) {
    for end in 1..items.len() {
        let mut at = end;
        while at > 0 && order(&items[at - 1], &items[at]) == Ordering::Greater {
            items.swap(at - 1, at);
            at -= 1;
        }
    }
}

/// The same by the type's own order.
pub(super) fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, T::cmp);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_is_in_order_and_equals_keep_theirs() {
        for list in [
            &[][..],
            &[1],
            &[2, 1],
            &[3, 1, 2, 3, 1, 2, 0],
            &[9, 8, 7, 6, 5],
        ] {
            let mut sorted: Vec<(i32, usize)> = list.iter().copied().zip(0..).collect();
            sort_by(&mut sorted, |a, b| a.0.cmp(&b.0));
            let mut expected: Vec<(i32, usize)> = list.iter().copied().zip(0..).collect();
            expected.sort();
            assert_eq!(sorted, expected);
        }
    }
}
