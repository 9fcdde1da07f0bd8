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
