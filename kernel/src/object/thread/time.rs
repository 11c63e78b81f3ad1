//! Time that a thread lends to the server of its request, and gets back with the answer.

use super::Thread;
use crate::memory::Ref;

impl Thread {
    /// The priority it runs at: the higher one of its own and the lent time's.
    pub fn priority(&self) -> u8 {
        let own = self.own_time.get().map_or(0, |sc| sc.priority());
        let lent = self.lent_time.get().map_or(0, |sc| sc.priority().max(self.donated_priority.get()));
        own.max(lent)
    }

    /// Lends the time that it runs on, and its priority, to the server that has taken its request.
    pub fn lend_time(&self, server: Ref<Thread>) {
        let Some(time) = self.time() else { return };
        let priority = self.priority();
        if self.lent_time.get() == Some(time) {
            self.lent_time.set(None);
        } else if let Some(user) = time.user.get() {
            user.lent_time.set(None);
        }
        self.lent_out.set(time.address());
        server.drop_lent_time();
        server.lent_time.set(Some(time));
        server.donated_priority.set(priority);
        time.user.set(Some(server));
    }

    /// With its answer, `server` gives back to this thread the time it was lent, unless that has gone elsewhere meanwhile.
    pub fn regain_time(&self, server: &Thread) {
        let address = self.lent_out.replace(0);
        let Some(time) = server.lent_time.get() else { return };
        if time.address() != address {
            return;
        }
        server.lent_time.set(None);
        if self.own_time.get() == Some(time) {
            time.user.set(None);
        } else {
            self.drop_lent_time();
            self.lent_time.set(Some(time));
            time.user.set(Some(Ref::from(self)));
        }
    }

    /// Runs on its own time only from now on.
    pub fn drop_lent_time(&self) {
        if let Some(time) = self.lent_time.take() {
            time.user.set(None);
        }
    }

    /// Whoever runs on its own time has to do without from now on.
    pub(super) fn take_back_time(&self) {
        self.lent_out.set(0);
        if let Some(time) = self.own_time.get()
            && let Some(user) = time.user.take()
        {
            user.lent_time.set(None);
        }
    }
}
