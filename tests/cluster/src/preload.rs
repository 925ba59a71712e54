//! Libraries in C that the servers preload, so that system calls fail, or lie, when a test says so.

use std::path::PathBuf;
use std::process::Command;

use crate::account::checkout;
use crate::{Cluster, Failure, Node, Result};

impl Cluster {
    /// Builds `tests/c/NAME.c` for `LD_PRELOAD`, in the cluster's folder.
    pub(crate) fn build_preload(&self, name: &str) -> Result<PathBuf> {
        let library = self.folder().join(format!("{name}.so"));
        let output = Command::new("cc")
            .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(checkout().join(format!("tests/c/{name}.c")))
            .output()
            .map_err(Failure::while_doing("run cc"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Failure::new(format!("cc failed:\n{said}")));
        }
        Ok(library)
    }

    /// Lets threads of the nodes' workers panic on demand. Before the servers start, which preload
    /// the library.
    pub fn prepare_panics(&mut self) -> Result<()> {
        self.preload("thread_panic", "PGRAFT_PANIC_CONTROL", Node::panic_control)
    }

    /// Lets the wall clock of each node be set. Before the servers start: they preload the library.
    pub fn prepare_clock_steps(&mut self) -> Result<()> {
        self.preload("clock_step", "PGRAFT_CLOCK_CONTROL", Node::clock_control)
    }

    /// Has every node preload a library, which finds the file that controls it by `variable`.
    fn preload(
        &mut self,
        name: &str,
        variable: &'static str,
        control: fn(&Node) -> PathBuf,
    ) -> Result<()> {
        let library = self.build_preload(name)?;
        let ids: Vec<u32> = self.nodes().iter().map(Node::id).collect();
        for id in ids {
            let node = self.node_mut(id);
            let control = control(node);
            node.set_variable("LD_PRELOAD", &library);
            node.set_variable(variable, &control);
        }
        Ok(())
    }
}

impl Node {
    fn clock_control(&self) -> PathBuf {
        self.place.folder.join("clock.step")
    }

    /// Sets the server's wall clock to so many seconds after the machine's, or before.
    pub fn set_clock(&self, seconds: i64) -> Result<()> {
        // Aside first: no process must find half of it.
        let aside = self.place.folder.join("clock.step.new");
        self.account.write_file(&aside, &seconds.to_string())?;
        let doing = Failure::while_doing("put the step of the clock in place");
        std::fs::rename(&aside, self.clock_control()).map_err(doing)
    }

    fn panic_control(&self) -> PathBuf {
        self.place.folder.join("thread.panic")
    }

    /// The next thread of the worker whose name begins so, and that asks what time it is, panics.
    pub fn set_panic(&self, thread: &str) -> Result<()> {
        // Aside first: no thread must find half of it.
        let aside = self.place.folder.join("thread.panic.new");
        self.account.write_file(&aside, thread)?;
        let doing = Failure::while_doing("put the name of the thread that is to panic in place");
        std::fs::rename(&aside, self.panic_control()).map_err(doing)
    }

    /// Whether the thread that was to panic has done so.
    pub fn has_panicked(&self) -> bool {
        !self.panic_control().exists()
    }
}
