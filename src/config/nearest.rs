//! The name that somebody probably meant.

/// The one of `known` that takes the fewest edits to get to from `name`; None when even that one would be another word.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (edits, best) = known.map(|candidate| (distance(name, candidate), candidate)).min()?;
    (edits <= name.chars().count() / 3).then_some(best)
}

/// A name that was only begun is nearer than one of the same length.
fn distance(name: &str, candidate: &str) -> usize {
    if candidate.starts_with(name) { 1 } else { edits(name, candidate) }
}

/// How many letters have to be inserted, removed or replaced (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let known = ["etcd-s3-bucket", "etcd-s3-bucket-lookup-type", "etcd-s3-secret-key", "etcd-snapshot-dir", "etcd-snapshot-retention"];
        for (name, meant) in [
            ("etcd-s3-buket", Some("etcd-s3-bucket")),
            ("etcd-s3-bucket-lookup", Some("etcd-s3-bucket-lookup-type")),
            ("etcd-s3-secret", Some("etcd-s3-secret-key")),
            ("etcd-snapshot-directory", Some("etcd-snapshot-dir")),
            ("etcd-snapshot-retension", Some("etcd-snapshot-retention")),
            ("etcd-s3-something-else-entirely", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), meant, "{name}");
        }
        assert_eq!((edits("", "abc"), edits("kitten", "sitting"), edits("same", "same")), (3, 3, 0));
    }
}
