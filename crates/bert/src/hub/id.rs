//! Names of repositories.

/// Whether `name` can be the name of a repository: `name` or `owner/name`, with letters, digits, `-`,
/// `_` and `.`. Each part begins with a letter or digit.
pub(crate) fn is_id(name: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.len() <= 96
            && !part.contains("..")
            // The cache writes `/` as `--`.
            && !part.contains("--")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.split('/').count() <= 2 && name.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_are_told_from_paths() {
        for id in ["bert-base-uncased", "google-bert/bert-base-uncased", "a/b_c.d-1"] {
            assert!(is_id(id), "{id}");
        }
        for path in [
            "",
            ".",
            "..",
            "./model",
            "/tmp/model",
            "a/b/c",
            "~/model",
            "a\\b",
            "a/",
            "a b",
            "a/../b",
            "a--b",
        ] {
            assert!(!is_id(path), "{path}");
        }
    }
}
