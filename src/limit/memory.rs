//! What memory the process uses, and what it may use: from `/proc` and the control group.
//!
//! The only file of this layer that reads anything: when a configuration is attached, and some times a second beside the
//! requests, never for one.
//!
//! Resident memory is compared, not what the control group counts: that has the page cache in it, which the kernel gives
//! back by itself.

use std::{fs, path::Path};

/// A control group's limit above this is none.
const NO_LIMIT: u64 = 1 << 60;

/// The process's resident memory in bytes; `None` where the system does not say.
pub fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// What the process's control group and those above it may use in bytes; `None` where there is no limit.
pub fn allowed() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    allowed_in(Path::new("/sys/fs/cgroup"), &groups)
}

/// The least of all limits on the way up. `groups` is as `/proc/self/cgroup` has it: version 2 has an empty list of
/// controllers, version 1 names `memory` (cgroups(7)).
fn allowed_in(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            list if list.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // In a container the group's path may be that of the host, and is not there; its root is then our group.
        let place = root.join(group.trim_start_matches('/'));
        place
            .ancestors()
            .take_while(|place| place.starts_with(&root))
            .filter_map(|place| fs::read_to_string(place.join(file)).ok()?.trim().parse().ok())
            .filter(|limit| *limit < NO_LIMIT)
            .min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_memory() {
        assert!(resident().unwrap() > 1 << 20);
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let allowed = |groups: &str| allowed_in(root.path(), groups);
        assert_eq!(allowed("0::/a/b\n"), None);
        write("a/b/memory.max", "max\n");
        assert_eq!(allowed("0::/a/b\n"), None);
        write("a/memory.max", "2000\n");
        assert_eq!(allowed("0::/a/b\n"), Some(2_000));
        write("a/b/memory.max", "1000\n");
        assert_eq!(allowed("0::/a/b\n"), Some(1_000));
        assert_eq!(allowed("0::/a\n"), Some(2_000));
        // Version 1; the group of the host is not to be seen.
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(allowed("4:memory:/docker/x\n1:cpu:/\n"), None);
        write("memory/memory.limit_in_bytes", "3000\n");
        assert_eq!(allowed("4:cpu,memory:/docker/x\n"), Some(3_000));
    }
}
