//! Who a command runs as, decided from the image's own `/etc/passwd` and `/etc/group` as container engines do.
//!
//! Pure: [`account`] is given the two files' bytes. The first matching line counts; lines that are not of the format are
//! skipped, whatever they hold.

use thiserror::Error;

/// The largest id a user may be given: the kernel reserves the upper half's end, and container engines stop here.
const MAX_ID: u32 = i32::MAX.cast_unsigned();

/// Who to become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group id.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// The home folder that the user database knows.
    pub(crate) home: Option<String>,
}

/// The user or group asked for does not exist.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum UserError {
    #[error("user {0:?} does not exist: the image's /etc/passwd does not list it")]
    NoUser(String),
    #[error("group {0:?} does not exist: the image's /etc/group does not list it")]
    NoGroup(String),
    #[error("user or group id {0} is too large")]
    IdTooLarge(String),
}

/// A line of `/etc/passwd`.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A line of `/etc/group`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The account for `spec`, which is empty, `uid`, `name`, `uid:gid`, `uid:group`, `name:gid` or `name:group`.
///
/// Supplementary groups are those that list the user, and only when `spec` names a known user and no group. The empty
/// `spec` is root, without any.
pub(crate) fn account(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Account, UserError> {
    let (user_part, group_part) = spec.split_once(':').unwrap_or((spec, ""));
    let wanted = if user_part.is_empty() { Some(0) } else { numeric(user_part)? };
    let known =
        lines(passwd).filter_map(user).find(|user| user.name == user_part || wanted.is_some_and(|uid| uid == user.uid));
    let mut account = match (&known, wanted) {
        (Some(user), _) => Account {
            uid: user.uid,
            gid: user.gid,
            groups: Vec::new(),
            home: (!user.home.is_empty()).then(|| user.home.to_owned()),
        },
        (None, Some(0)) => Account::default(),
        (None, Some(uid)) => Account { uid, gid: uid, ..Account::default() },
        (None, None) => return Err(UserError::NoUser(user_part.to_owned())),
    };
    if !group_part.is_empty() {
        account.gid = group_id(group_part, group)?;
    } else if let Some(user) = known.filter(|_| !user_part.is_empty()) {
        account.groups = lines(group)
            .filter_map(parse_group)
            .filter(|group| group.members.split(',').any(|member| member == user.name))
            .map(|group| group.gid)
            .collect();
        account.groups.sort_unstable();
        account.groups.dedup();
        account.groups.truncate(MAX_GROUPS);
    }
    Ok(account)
}

/// What the kernel takes in one `setgroups` (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

fn group_id(part: &str, file: &[u8]) -> Result<u32, UserError> {
    let wanted = numeric(part)?;
    let named = lines(file).filter_map(parse_group).find(|group| group.name == part).map(|group| group.gid);
    named.or(wanted).ok_or_else(|| UserError::NoGroup(part.to_owned()))
}

/// The id that `text` spells, if it is all digits.
fn numeric(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse().ok().filter(|id| *id <= MAX_ID);
    id.map(Some).ok_or_else(|| UserError::IdTooLarge(text.to_owned()))
}

fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|byte| *byte == b'\n')
        .filter_map(|line| str::from_utf8(line).ok())
        .map(|line| line.trim_end_matches('\r'))
        .filter(|line| !line.starts_with('#'))
}

fn user(line: &str) -> Option<User<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let _password = fields.next()?;
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let _comment = fields.next();
    Some(User { name, uid, gid, home: fields.next().unwrap_or_default() })
}

fn parse_group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let _password = fields.next()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Group { name, gid, members: fields.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"# comment:x:9:9::/:\n\
        root:x:0:0:root:/root:/bin/sh\n\
        broken line\n\
        \xff\xfe:x:5:5::/bad:\n\
        app:x:1000:1001:An App:/home/app:/bin/sh\r\n\
        shadow:x:1000:7::/other:\n\
        7777:x:42:43::/digits:\n\
        nohome:x:50:51\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nextra:x:11:bob,app,app\nextra:x:12:app\n99:x:98:\n";

    fn of(spec: &str) -> Result<Account, UserError> {
        account(spec, PASSWD, GROUP)
    }

    fn is(uid: u32, gid: u32, groups: &[u32], home: &str) -> Account {
        let home = (!home.is_empty()).then(|| home.to_owned());
        Account { uid, gid, groups: groups.to_vec(), home }
    }

    #[test]
    fn each_form_of_a_user() {
        assert_eq!(of(""), Ok(is(0, 0, &[], "/root")));
        assert_eq!(of("root"), Ok(is(0, 0, &[10], "/root")));
        assert_eq!(of("app"), Ok(is(1000, 1001, &[10, 11, 12], "/home/app")));
        assert_eq!(of("1000"), Ok(is(1000, 1001, &[10, 11, 12], "/home/app")), "the first line with this id");
        assert_eq!(of("shadow"), Ok(is(1000, 7, &[], "/other")));
        assert_eq!(of("4242"), Ok(is(4242, 4242, &[], "")), "an id needs no line");
        assert_eq!(of("7777"), Ok(is(42, 43, &[], "/digits")), "a name of digits is a name");
        assert_eq!(of("nohome"), Ok(is(50, 51, &[], "")));
        assert_eq!(of(":wheel"), Ok(is(0, 10, &[], "/root")));
    }

    #[test]
    fn an_explicit_group_is_the_only_one() {
        assert_eq!(of("app:wheel"), Ok(is(1000, 10, &[], "/home/app")));
        assert_eq!(of("app:5"), Ok(is(1000, 5, &[], "/home/app")));
        assert_eq!(of("1:2"), Ok(is(1, 2, &[], "")));
        assert_eq!(of("4242:extra"), Ok(is(4242, 11, &[], "")), "the first line with this name");
        assert_eq!(of("app:99"), Ok(is(1000, 98, &[], "/home/app")), "a name of digits is a name");
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        assert_eq!(of("nobody"), Err(UserError::NoUser("nobody".to_owned())));
        assert_eq!(of("broken line"), Err(UserError::NoUser("broken line".to_owned())));
        assert_eq!(of("# comment"), Err(UserError::NoUser("# comment".to_owned())));
        assert_eq!(of("app:nogroup"), Err(UserError::NoGroup("nogroup".to_owned())));
        assert_eq!(of("4294967295"), Err(UserError::IdTooLarge("4294967295".to_owned())));
        assert_eq!(of("0:99999999999999999999"), Err(UserError::IdTooLarge("99999999999999999999".to_owned())));
        assert_eq!(of("-1"), Err(UserError::NoUser("-1".to_owned())));
    }

    #[test]
    fn an_image_without_user_databases_has_root_and_numbers() {
        assert_eq!(account("", b"", b""), Ok(is(0, 0, &[], "")));
        assert_eq!(account("0", b"", b""), Ok(is(0, 0, &[], "")));
        assert_eq!(account("12:34", b"", b""), Ok(is(12, 34, &[], "")));
        assert_eq!(account("root", b"", b""), Err(UserError::NoUser("root".to_owned())));
    }

    proptest! {
        #[test]
        fn no_file_and_no_user_is_too_strange(spec in ".{0,20}", passwd: Vec<u8>, group: Vec<u8>) {
            let _ = account(&spec, &passwd, &group);
        }

        #[test]
        fn numbers_are_taken_whatever_the_files_hold(
            uid in 0..=MAX_ID, gid in 0..=MAX_ID, passwd in "([a-z]{1,3}:x:[0-9]{1,5}:[0-9]{1,5}::/:\n){0,9}",
        ) {
            let account = account(&format!("{uid}:{gid}"), passwd.as_bytes(), b"").unwrap();
            prop_assert_eq!((account.uid, account.gid, account.groups), (uid, gid, Vec::new()));
        }

        #[test]
        fn a_listed_name_is_found_among_others(
            others in "([A-Z]{1,3}:x:[0-9]{1,5}:1::/:\n|[^\n]{0,20}\n){0,9}", uid in 0..=MAX_ID, gid in 0..=MAX_ID,
        ) {
            let passwd = format!("{others}me:x:{uid}:{gid}::/home/me:/bin/sh\n{others}");
            prop_assert_eq!(account("me", passwd.as_bytes(), b""), Ok(is(uid, gid, &[], "/home/me")));
        }
    }
}
