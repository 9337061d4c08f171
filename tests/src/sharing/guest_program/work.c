/* Work of several guests at the same time in one directory. Each prints its results line by line,
   which the question combines. A line `error WHAT WHY` reports something that must not happen. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "guest_program.h"

static uint64_t state;

/* Random numbers (xorshift64*), the same for each run with a seed. */
static uint32_t some(uint32_t below) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * 0x2545f4914f6cdd1dull) >> 33) % below;
}

static void seed(const char *number, int me) { state = strtoull(number, 0, 10) * 1000003 + me * 7919 + 1; }

static int errors;

static void error(const char *what, const char *which) {
    if (errors++ < 20) printf("error %s %s %s\n", what, which, strerrorname_np(errno));
}

/* Returns whether the work of the other guests can cause the last error. */
static int expected(const int *those) {
    while (*those && *those != errno) those++;
    return *those != 0;
}

int list(const char *path, char **names, int max) {
    DIR *folder = opendir(path);
    if (!folder) return -1;
    int count = 0;
    errno = 0;
    for (struct dirent *entry; count < max && (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) names[count++] = strdup(entry->d_name);
    int why = errno;
    closedir(folder);
    errno = why;
    return why ? -1 : count;
}

/* `append FILE ME COUNT`: appends records of 20 to 3000 bytes, each by one write. */
static int append(char **w) {
    static char record[4096];
    int me = atoi(w[2]), count = atoi(w[3]);
    seed("1", me);
    int fd = open(w[1], O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd < 0) return error("open", w[1]), 1;
    for (int i = 0; i < count; i++) {
        int len = 20 + some(2980);
        int head = snprintf(record, sizeof record, "%d %d %d ", me, i, len);
        memset(record + head, 'a' + me, len - head - 1);
        record[len - 1] = '\n';
        if (write(fd, record, len) != len) error("write", w[1]);
    }
    if (close(fd)) error("close", w[1]);
    return errors != 0;
}

/* `excl FOLDER ME COUNT`: makes files, folders, links and symbolic links of the same names as all
   other guests, and prints which it made. */
static int excl(char **w) {
    char base[64], path[256];
    int me = atoi(w[2]), count = atoi(w[3]);
    snprintf(base, sizeof base, "%s/base-%d", w[1], me);
    if (close(open(base, O_WRONLY | O_CREAT, 0644))) error("create", base);
    for (int i = 0; i < count * 4; i++) {
        const char *kind = (const char *[]){"file", "folder", "link", "symlink"}[i % 4];
        snprintf(path, sizeof path, "%s/%s-%d", w[1], kind, i / 4);
        int made = -1;
        if (i % 4 == 0) {
            made = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
            if (made >= 0 && (dprintf(made, "%d", me) < 1 || close(made))) error("write", path);
        } else if (i % 4 == 1) made = mkdir(path, 0755);
        else if (i % 4 == 2) made = link(base, path);
        else made = symlink(base, path);
        if (made >= 0) printf("made %s-%d\n", kind, i / 4);
        else if (errno != EEXIST) error(kind, path);
    }
    return errors != 0;
}

static int put(const char *path, int flags, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | flags, 0644);
    if (fd < 0) return -1;
    if (write(fd, text, strlen(text)) < 0) error("write", path);
    return close(fd);
}

static int get(const char *path, char *text, int max) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -1;
    ssize_t len = read(fd, text, max - 1);
    if (len < 0) error("read", path);
    text[len < 0 ? 0 : len] = 0;
    close(fd);
    return 0;
}

/* `storm FOLDER ME TURNS SEED`: creates, moves and removes files of eight names. Every file has its
   own mark. All calls fail if the name exists or is missing, so each success shows which guest had
   which file. */
static int storm(char **w) {
    static const int BUSY[] = {EEXIST, ENOENT, 0};
    int me = atoi(w[2]), turns = atoi(w[3]);
    char one[256], other[256], mark[64], own[256];
    seed(w[4], me);
    snprintf(own, sizeof own, "%s/taken-%d", w[1], me);
    for (int i = 0; i < turns; i++) {
        int a = some(8), b = some(8), what = some(4);
        snprintf(one, sizeof one, "%s/%d", w[1], a);
        snprintf(other, sizeof other, "%s/%d", w[1], b);
        if (what < 2) {
            /* The mark is in the file before the file has its name. */
            snprintf(mark, sizeof mark, "%d-%d", me, i);
            if (put(own, O_EXCL, mark)) error("create", own);
            if (link(own, one) == 0) printf("create %d %s\n", a, mark);
            else if (!expected(BUSY)) error("link", one);
            if (unlink(own)) error("unlink", own);
        } else if (what == 2 && a != b) {
            if (renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_NOREPLACE) == 0) printf("move %d %d\n", a, b);
            else if (!expected(BUSY)) error("rename", one);
        } else if (what == 3) {
            if (rename(one, own) == 0) {
                if (get(own, mark, sizeof mark)) error("open", own);
                printf("take %d %s\n", a, mark);
                if (unlink(own)) error("unlink", own);
            } else if (!expected(BUSY)) error("rename", one);
        }
    }
    return errors != 0;
}

/* Returns how many of the watchers, whose numbers begin with 1, have finished. */
static int contented(const char *folder, int watchers) {
    char path[256];
    int count = 0;
    for (int i = 1; i <= watchers; i++) {
        snprintf(path, sizeof path, "%s/watched-%d", folder, i);
        count += access(path, F_OK) == 0;
    }
    return count;
}

/* `replace FOLDER ME COUNT WATCHERS`: replaces FOLDER/target by rename, each time with a whole file
   of one letter. Does so COUNT times, and until every watcher has finished, or for 60 seconds. */
static int replace(char **w) {
    static char text[4001];
    char own[256], target[256];
    int me = atoi(w[2]), count = atoi(w[3]), watchers = atoi(w[4]);
    snprintf(own, sizeof own, "%s/next-%d", w[1], me);
    snprintf(target, sizeof target, "%s/target", w[1]);
    time_t end = time(0) + 60;
    for (int i = 0; i < count || (contented(w[1], watchers) < watchers && time(0) < end); i++) {
        memset(text, 'a' + i % 26, sizeof text - 1);
        if (put(own, O_EXCL, text)) error("create", own);
        if (rename(own, target)) error("rename", own);
    }
    printf("replaced %d\n", count);
    return errors != 0;
}

/* `watch FOLDER ME COUNT`: reads the target, which must always exist and always be whole. Does so
   COUNT times, and until it has seen another file than at first, or for 60 seconds. */
static int watch(char **w) {
    static char text[5000];
    char target[256];
    int count = atoi(w[3]), seen[26] = {0}, kinds = 0;
    snprintf(target, sizeof target, "%s/target", w[1]);
    time_t end = time(0) + 60;
    for (int i = 0; i < count || (kinds < 2 && time(0) < end); i++) {
        struct stat st;
        errno = 0;
        if (get(target, text, sizeof text)) error("open", target);
        else if (strlen(text) != 4000 || strspn(text, (char[]){text[0], 0}) != 4000) error("torn", target);
        else kinds += !seen[(text[0] - 'a') % 26]++;
        if (stat(target, &st)) error("stat", target);
        else if (st.st_size != 4000) error("size", target);
    }
    snprintf(text, sizeof text, "%s/watched-%s", w[1], w[2]);
    if (put(text, O_EXCL, "")) error("create", text);
    printf("watched %d %d\n", count, kinds);
    return errors != 0;
}

static int count_in(const char *folder) {
    static char *names[16384];
    int count = list(folder, names, 16384);
    for (int i = 0; i < count; i++) free(names[i]);
    return count;
}

/* `maildir FOLDER ME COUNT ALL`: delivers COUNT messages through tmp/ and new/, and reads the
   messages in new/ as one of several readers: a message belongs to the reader that moves it to
   cur/. Ends when ALL messages are in cur/. */
static int maildir(char **w) {
    static char *names[16384];
    static char text[4096], mail[4096];
    char from[512], to[512];
    int me = atoi(w[2]), count = atoi(w[3]), all = atoi(w[4]), delivered = 0;
    time_t end = time(0) + 80;
    while (time(0) < end) {
        for (int burst = 0; burst < 5 && delivered < count; burst++, delivered++) {
            int len = snprintf(text, sizeof text, "From %d %d\n", me, delivered);
            memset(text + len, 'm', 2000);
            strcpy(text + len + 2000, "\nend\n");
            snprintf(from, sizeof from, "%s/tmp/%d.%d", w[1], me, delivered);
            snprintf(to, sizeof to, "%s/new/%d.%d", w[1], me, delivered);
            if (put(from, O_EXCL, text)) error("deliver", from);
            if (rename(from, to)) error("rename", from);
        }
        snprintf(from, sizeof from, "%s/new", w[1]);
        int found = list(from, names, 16384);
        if (found < 0) error("list", from);
        for (int i = 0; i < found; i++) {
            snprintf(from, sizeof from, "%s/new/%s", w[1], names[i]);
            snprintf(to, sizeof to, "%s/cur/%s:2,%d", w[1], names[i], me);
            if (rename(from, to) == 0) {
                errno = 0;
                if (get(to, mail, sizeof mail)) error("open", to);
                else if (strlen(mail) < 2010 || strcmp(mail + strlen(mail) - 5, "\nend\n")) error("torn", to);
                printf("read %s\n", names[i]);
            } else if (errno != ENOENT) error("rename", from);
            free(names[i]);
        }
        snprintf(to, sizeof to, "%s/cur", w[1]);
        if (delivered == count && count_in(to) >= all) return errors != 0;
    }
    errno = ETIMEDOUT;
    error("wait", to);
    return 1;
}

static int record_lock(int fd, int type, off_t at) {
    struct flock lock = {.l_type = type, .l_start = at, .l_len = 1};
    return fcntl(fd, type == F_UNLCK ? F_SETLK : F_SETLKW, &lock);
}

/* `count fcntl|flock|folder|between FILE ME TURNS`: reads a number, increments it and writes it
   back, each time under a lock. With `between`, the lock is that of another file, and the counted
   file is opened under the lock and closed before the unlock. */
static int count(char **w) {
    char text[64], beside[256];
    int turns = atoi(w[4]), records = w[1][0] == 'f' && w[1][1] == 'c', between = w[1][0] == 'b';
    snprintf(beside, sizeof beside, "%s.lock", w[2]);
    int lock = open(between ? beside : w[2], O_RDWR | O_CREAT, 0644), file = lock;
    if (lock < 0) return error("open", w[2]), 1;
    for (int i = 0; i < turns; i++) {
        if (records || between ? record_lock(lock, F_WRLCK, 0) : flock(lock, LOCK_EX)) return error("lock", w[2]), 1;
        if (between && (file = open(w[2], O_RDWR)) < 0) error("open", w[2]);
        ssize_t len = pread(file, text, sizeof text - 1, 0);
        text[len < 0 ? 0 : len] = 0;
        int next = snprintf(text, sizeof text, "%ld\n", atol(text) + 1);
        if (pwrite(file, text, next, 0) != next) error("write", w[2]);
        if (between && close(file)) error("close", w[2]);
        if (records || between ? record_lock(lock, F_UNLCK, 0) : flock(lock, LOCK_UN)) error("unlock", w[2]);
    }
    printf("turns %d\n", turns);
    return errors != 0;
}

/* File of counters, accessed by read and write or by a mapping. */
static int file;
static volatile uint32_t *mapped;

static uint32_t word_at(int at) {
    uint32_t number = 0;
    if (mapped) return mapped[at];
    if (pread(file, &number, 4, at * 4) != 4) error("read", "");
    return number;
}

static void set_word(int at, uint32_t number) {
    if (mapped) mapped[at] = number;
    else if (pwrite(file, &number, 4, at * 4) != 4) error("write", "");
}

/* Increments the counter at this word. */
static void check_in(int word) {
    if (record_lock(file, F_WRLCK, word)) error("check in", "");
    set_word(word, word_at(word) + 1);
    if (record_lock(file, F_UNLCK, word)) error("check in", "");
}

/* `pingpong rw|rwm FILE CLIENTS VISITS`: Samba's ping_pong -rw or -rwm, with counters of four
   bytes. Each client holds one of CLIENTS + 1 locks, takes the next one and then releases the last.
   No client can overtake another, so between two visits of one place every other client has been
   there once. While all clients are running, each increment is CLIENTS. Ends when every client has
   had that many such visits, or after 20 seconds: a fast client goes round alone until the others
   have started. */
static int pingpong(char **w) {
    uint32_t clients = atoi(w[3]), places = clients + 1, wanted = atoi(w[4]), steady = 0, other = 0, turn = 0, last[64] = {0};
    file = open(w[2], O_RDWR);
    if (file < 0 || places > 64) return error("open", w[2]), 1;
    if (w[1][2] == 'm') {
        void *at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (at == MAP_FAILED) return error("map", w[2]), 1;
        mapped = at;
    }
    check_in(100);
    /* If the clients do not share the file, no other client appears. */
    for (int i = 0; i < 3000 && word_at(100) < clients; i++) nap(1000);
    if (record_lock(file, F_WRLCK, 0)) return error("lock", w[2]), 1;
    check_in(102);
    int met = 0, all_in = 0, judged[64] = {0};
    for (time_t end = time(0) + 60; !met && time(0) < end; turn++) {
        int here = turn % places;
        if (record_lock(file, F_WRLCK, (here + 1) % places)) return error("lock", w[2]), 1;
        uint32_t number = word_at(here);
        /* All clients were running at the last visit here, and none had ended when the number was
           read. */
        if (judged[here] && word_at(101) < clients) {
            if (number + 1 - last[here] != clients) other++;
            else if (++steady == wanted) check_in(101);
        }
        judged[here] = all_in = all_in || word_at(102) >= clients;
        last[here] = number + 1;
        set_word(here, number + 1);
        if (record_lock(file, F_UNLCK, here)) error("unlock", w[2]);
        met = here == 0 && steady >= wanted && word_at(101) >= clients;
    }
    printf("turns %u steady %u other %u\n", turn, steady, other);
    return errors != 0;
}

/* Returns the letter of a process state in /proc, or 0 if the process does not exist. */
static char state_of(const char *process) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%s/stat", process);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    text[len < 0 ? 0 : len] = 0;
    char *name_ends = strrchr(text, ')');
    return name_ends && name_ends[1] ? name_ends[2] : 0;
}

static int whole_lock(const char *how, int fd, int wait) {
    struct flock lock = {.l_type = F_WRLCK};
    return how[1] == 'c' ? fcntl(fd, wait ? F_SETLKW : F_SETLK, &lock) : flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB);
}

/* `abandon fcntl|flock FILE`: starts a process that waits for the lock of the whole file, and kills
   it meanwhile. Prints its id, and `S` if it slept in that call or `had` if it got the lock. */
static int abandon(char **w) {
    int about[2];
    char byte, number[16];
    if (pipe(about)) return error("pipe", ""), 1;
    pid_t child = fork();
    if (child == 0) {
        int fd = open(w[2], O_RDWR);
        if (fd < 0 || write(about[1], "", 1) != 1 || whole_lock(w[1], fd, 1) || write(about[1], "", 1) != 1) _exit(1);
        for (;;) pause();
    }
    close(about[1]);
    snprintf(number, sizeof number, "%d", child);
    if (read(about[0], &byte, 1) != 1) return error("open", w[2]), 1;
    /* The next sleep of the process is in the call. */
    for (int i = 0; i < 5000 && state_of(number) != 'S'; i++) nap(2000);
    /* Time for a lock that is granted at once. */
    nap(20000);
    char before = state_of(number);
    int had = fcntl(about[0], F_SETFL, O_NONBLOCK) || read(about[0], &byte, 1) == 1;
    kill(child, SIGKILL);
    printf("%s %s\n", number, had ? "had" : (char[]){before ? before : '-', 0});
    return errors != 0;
}

/* `gone PROCESS`: checks that the process has ended within ten seconds. */
static int gone(char **w) {
    char state;
    for (int i = 0; i < 5000 && (state = state_of(w[1])) && state != 'Z'; i++) nap(2000);
    state = state_of(w[1]);
    printf(state && state != 'Z' ? "still there, in state %c\n" : "gone\n", state);
    return 0;
}

/* `have fcntl|flock FILE`: gets the lock of the whole file within ten seconds, without a call that
   waits. */
static int have(char **w) {
    int fd = open(w[2], O_RDWR), outcome = -1;
    if (fd < 0) return error("open", w[2]), 1;
    for (int i = 0; i < 5000 && (outcome = whole_lock(w[1], fd, 0)) && (errno == EAGAIN || errno == EACCES); i++) nap(2000);
    puts(outcome ? strerrorname_np(errno) : "had");
    return 0;
}

static void look(const char *path, int top) {
    struct stat st;
    char text[4096], **names = calloc(4096, sizeof *names);
    if (lstat(path, &st)) error("stat", path);
    uint64_t sum = 0;
    if (S_ISREG(st.st_mode)) {
        int fd = open(path, O_RDONLY);
        if (fd < 0) error("open", path);
        for (ssize_t len; (len = read(fd, text, sizeof text)) > 0;)
            for (ssize_t i = 0; i < len; i++) sum = (sum ^ (uint8_t)text[i]) * 0x100000001b3ull;
        close(fd);
    } else if (S_ISLNK(st.st_mode) && readlink(path, text, sizeof text) < 0) error("readlink", path);
    if (!top)
        printf("tree %s %o %lu %lld %llx\n", path, st.st_mode, S_ISDIR(st.st_mode) ? 0ul : (unsigned long)st.st_nlink,
               S_ISREG(st.st_mode) ? (long long)st.st_size : 0, (unsigned long long)sum);
    if (!S_ISDIR(st.st_mode)) return free(names);
    int count = list(path, names, 4096);
    if (count < 0) error("list", path);
    for (int i = 0; i < count; i++) {
        char below[512];
        snprintf(below, sizeof below, "%s/%s", path, names[i]);
        look(below, 0);
    }
    free(names);
}

/* `tree FOLDER`: prints the whole tree. */
static int tree(char **w) {
    look(w[1], 1);
    return errors != 0;
}

static const char *const FOLDERS[] = {"", "", "", "/x", "/y", "/x/z"};

/* Returns a path that is mostly not a folder, so that most calls find an object there. */
static void place(char *path, size_t len, const char *top) {
    snprintf(path, len, "%s%s/%c", top, FOLDERS[some(6)], some(8) ? 'a' + some(4) : 'x' + some(3));
}

/* `mix FOLDER ME TURNS SEED`: makes random calls of all kinds, as fsstress does. */
static int mix(char **w) {
    static const int ORDINARY[] = {ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL, ELOOP, EPERM, EBUSY, 0};
    static char text[20000];
    char one[256], other[256];
    int me = atoi(w[2]), turns = atoi(w[3]), done = 0;
    seed(w[4], me);
    memset(text, 'A' + me, sizeof text);
    for (int i = 0; i < turns; i++) {
        place(one, sizeof one, w[1]);
        place(other, sizeof other, w[1]);
        int what = some(16), outcome = 0, fd = -1;
        if (what < 2 && some(4)) snprintf(one, sizeof one, "%s%s", w[1], FOLDERS[3 + some(3)]);
        struct stat st;
        const char *name = (const char *[]){"mkdir", "mkdir", "create", "append", "write", "read", "truncate", "unlink",
                                            "rmdir", "rename", "link", "symlink", "stat", "list", "chmod", "exchange"}[what];
        switch (what) {
        case 0: case 1: outcome = mkdir(one, 0755); break;
        case 2: outcome = fd = open(one, O_RDWR | O_CREAT | O_EXCL, 0644); break;
        case 3:
            outcome = fd = open(one, O_WRONLY | O_CREAT | O_APPEND, 0644);
            if (fd >= 0) outcome = write(fd, text, 1 + some(3000));
            break;
        case 4:
            outcome = fd = open(one, O_RDWR | O_CREAT, 0644);
            if (fd >= 0) outcome = pwrite(fd, text, 1 + some(5000), some(60000));
            break;
        case 5:
            outcome = fd = open(one, O_RDONLY);
            if (fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode)) outcome = pread(fd, other, 100, some(60000));
            break;
        case 6: outcome = truncate(one, some(50000)); break;
        case 7: outcome = unlink(one); break;
        case 8: outcome = rmdir(one); break;
        case 9: outcome = rename(one, other); break;
        case 10: outcome = link(one, other); break;
        case 11: outcome = symlink("a", one); break;
        case 12: outcome = lstat(one, &st); break;
        case 13: outcome = count_in(one); break;
        case 14: outcome = chmod(one, 0600 | some(0100)); break;
        case 15: outcome = renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE); break;
        }
        if (outcome < 0 && !expected(ORDINARY)) error(name, one);
        if (fd >= 0 && close(fd)) error("close", one);
        done += outcome >= 0;
    }
    printf("done %d of %d\n", done, turns);
    return errors != 0;
}

static const struct {
    const char *name;
    int count;
    int (*perform)(char **);
} WORKS[] = {
    {"append", 3, append}, {"excl", 3, excl}, {"storm", 4, storm}, {"replace", 4, replace}, {"watch", 3, watch},
    {"maildir", 4, maildir}, {"count", 4, count}, {"pingpong", 4, pingpong}, {"abandon", 2, abandon}, {"gone", 1, gone},
    {"have", 2, have}, {"tree", 1, tree}, {"mix", 4, mix},
};

int work(int count, char **words) {
    setvbuf(stdout, 0, _IOFBF, 1 << 16);
    for (size_t i = 0; i < sizeof WORKS / sizeof *WORKS; i++)
        if (!strcmp(words[0], WORKS[i].name) && count == WORKS[i].count + 1) return WORKS[i].perform(words);
    fprintf(stderr, "no such work: %s\n", words[0]);
    return 2;
}
