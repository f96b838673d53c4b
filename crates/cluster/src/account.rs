//! The account that PostgreSQL runs as.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::Error;

/// Who runs the PostgreSQL programs: ourselves, or, as root, the user `postgres`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    own: u32,
    drop_to: Option<(u32, u32)>,
}

impl Account {
    pub(crate) fn current() -> Result<Self, Error> {
        let own = fs::metadata("/proc/self").map_err(Error::io("cannot read /proc/self"))?.uid();
        if own != 0 {
            return Ok(Self { own, drop_to: None });
        }
        let users = fs::read_to_string("/etc/passwd").map_err(Error::io("cannot read /etc/passwd"))?;
        let ids = users.lines().find_map(|line| {
            let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        });
        Ok(Self { own, drop_to: Some(ids.ok_or(Error::NoAccount)?) })
    }

    /// The user that the programs run as.
    pub(crate) fn uid(self) -> u32 {
        self.drop_to.map_or(self.own, |(uid, _)| uid)
    }

    /// A command that runs under this account, from a folder that the account can enter.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/");
        if let Some((uid, gid)) = self.drop_to {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or folder to this account.
    pub(crate) fn own(self, path: &Path) -> Result<(), Error> {
        let Some((uid, gid)) = self.drop_to else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .map_err(Error::io(format!("cannot give {} to the user postgres", path.display())))
    }

    /// The first folder above `path` that this account may not pass through, if we are not it.
    pub(crate) fn closed_ancestor(self, path: &Path) -> Option<PathBuf> {
        let (uid, gid) = self.drop_to?;
        let passable = |folder: &Path| {
            let Ok(meta) = fs::metadata(folder) else { return true };
            let bit = match () {
                () if meta.uid() == uid => 0o100,
                () if meta.gid() == gid => 0o010,
                () => 0o001,
            };
            meta.mode() & bit != 0
        };
        path.ancestors().skip(1).find(|folder| !passable(folder)).map(Path::to_path_buf)
    }
}
