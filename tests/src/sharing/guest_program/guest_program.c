/* The program that runs in each guest and on the host, on one directory. `guest_program serve
   CHANNEL` carries out the files ask-1, ask-2 and so on of the folder CHANNEL, one line each, and
   ends its output for each with a line `>N CODE`. A line starts with a word of the table below, or
   with `run` and a shell command, which has the path of this program in $guest_program. Other words
   are those of work.c, for work at the same time. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "guest_program.h"

/* Open files, each by a letter. */
static int handles[26];
static char *maps[26];
static char buffer[1 << 20];

void nap(long us) {
    struct timespec time = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&time, 0);
}

static int failed(void) {
    printf("%s\n", strerrorname_np(errno));
    return 1;
}

static int done(int outcome) {
    if (outcome < 0) return failed();
    puts("ok");
    return 0;
}

static int *handle(const char *word) { return &handles[(word[0] - 'a') % 26]; }

static int flags(const char *word) {
    int flags = strchr(word, 'w') ? (strchr(word, 'r') ? O_RDWR : O_WRONLY) : O_RDONLY;
    if (strchr(word, 'c')) flags |= O_CREAT;
    if (strchr(word, 'x')) flags |= O_EXCL;
    if (strchr(word, 't')) flags |= O_TRUNC;
    if (strchr(word, 'a')) flags |= O_APPEND;
    return flags;
}

/* Prints the content of an open file as text. */
static int show(int fd, size_t len, off_t at) {
    ssize_t got = pread(fd, buffer, len < sizeof buffer ? len : sizeof buffer, at);
    if (got < 0) return failed();
    fwrite(buffer, 1, got, stdout);
    puts("");
    return 0;
}

static int by_name(const void *one, const void *other) { return strcmp(*(char **)one, *(char **)other); }

static int do_open(char **w) {
    *handle(w[1]) = open(w[3], flags(w[2]), 0644);
    return done(*handle(w[1]));
}
static int do_close(char **w) { return done(close(*handle(w[1]))); }
static int do_read(char **w) { return show(*handle(w[1]), atoi(w[3]), atoi(w[2])); }
static int do_write(char **w) { return done(pwrite(*handle(w[1]), w[3], strlen(w[3]), atoi(w[2]))); }
static int do_append(char **w) { return done(write(*handle(w[1]), w[2], strlen(w[2]))); }
static int do_ftruncate(char **w) { return done(ftruncate(*handle(w[1]), atoi(w[2]))); }
static int do_fsync(char **w) { return done(fsync(*handle(w[1]))); }
static int do_unlink(char **w) { return done(unlink(w[1])); }
static int do_rename(char **w) { return done(rename(w[1], w[2])); }
static int do_mkdir(char **w) { return done(mkdir(w[1], 0755)); }
static int do_truncate(char **w) { return done(truncate(w[1], atoi(w[2]))); }

static int do_size(char **w) {
    struct stat st;
    if (fstat(*handle(w[1]), &st)) return failed();
    printf("%lld\n", (long long)st.st_size);
    return 0;
}
static int do_links(char **w) {
    struct stat st;
    if (fstat(*handle(w[1]), &st)) return failed();
    printf("%lu\n", (unsigned long)st.st_nlink);
    return 0;
}
static int do_stat(char **w) {
    struct stat st;
    if (stat(w[1], &st)) return failed();
    printf("%lld\n", (long long)st.st_size);
    return 0;
}
static int do_mtime(char **w) {
    struct stat st;
    if (stat(w[1], &st)) return failed();
    printf("%lld.%09ld\n", (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    return 0;
}
static int do_cat(char **w) {
    int fd = open(w[1], O_RDONLY);
    if (fd < 0) return failed();
    int code = show(fd, sizeof buffer, 0);
    close(fd);
    return code;
}
static int do_put(char **w) {
    int fd = open(w[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) return failed();
    if (write(fd, w[2], strlen(w[2])) < 0) return failed();
    return done(close(fd));
}
static int do_list(char **w) {
    char *names[4096];
    int count = list(w[1], names, 4096);
    if (count < 0) return failed();
    qsort(names, count, sizeof *names, by_name);
    for (int i = 0; i < count; i++) printf("%s%s", i ? " " : "", names[i]);
    puts("");
    return 0;
}
static int do_map(char **w) {
    void *at = mmap(0, atoi(w[2]), PROT_READ | PROT_WRITE, MAP_SHARED, *handle(w[1]), 0);
    maps[(w[1][0] - 'a') % 26] = at == MAP_FAILED ? 0 : at;
    return done(at == MAP_FAILED ? -1 : 0);
}
static int do_load(char **w) {
    char *at = maps[(w[1][0] - 'a') % 26];
    if (!at) return errno = EBADF, failed();
    printf("%.*s\n", atoi(w[3]), at + atoi(w[2]));
    return 0;
}
static int do_store(char **w) {
    char *at = maps[(w[1][0] - 'a') % 26];
    if (!at) return errno = EBADF, failed();
    memcpy(at + atoi(w[2]), w[3], strlen(w[3]));
    return done(msync(at, 4096, MS_SYNC));
}
/* `lock H r|w|u START LEN`: a record lock of fcntl, without waiting. */
static int do_lock(char **w) {
    struct flock lock = {0};
    lock.l_type = w[2][0] == 'r' ? F_RDLCK : w[2][0] == 'w' ? F_WRLCK : F_UNLCK;
    lock.l_start = atoi(w[3]);
    lock.l_len = atoi(w[4]);
    return done(fcntl(*handle(w[1]), F_SETLK, &lock));
}
static int do_getlk(char **w) {
    struct flock lock = {0};
    lock.l_type = w[2][0] == 'r' ? F_RDLCK : F_WRLCK;
    lock.l_start = atoi(w[3]);
    lock.l_len = atoi(w[4]);
    if (fcntl(*handle(w[1]), F_GETLK, &lock)) return failed();
    if (lock.l_type == F_UNLCK) return done(0);
    printf("%s %lld %lld\n", lock.l_type == F_RDLCK ? "read" : "write", (long long)lock.l_start, (long long)lock.l_len);
    return 0;
}
static int do_flock(char **w) {
    int how = w[2][0] == 's' ? LOCK_SH : w[2][0] == 'x' ? LOCK_EX : LOCK_UN;
    return done(flock(*handle(w[1]), how | LOCK_NB));
}
static int do_cd(char **w) { return done(chdir(w[1])); }

static const struct {
    const char *name;
    int count;
    int (*perform)(char **);
} WORDS[] = {
    {"open", 3, do_open}, {"close", 1, do_close}, {"read", 3, do_read}, {"write", 3, do_write}, {"append", 2, do_append},
    {"ftruncate", 2, do_ftruncate}, {"fsync", 1, do_fsync}, {"unlink", 1, do_unlink}, {"rename", 2, do_rename},
    {"mkdir", 1, do_mkdir}, {"truncate", 2, do_truncate}, {"size", 1, do_size}, {"links", 1, do_links},
    {"stat", 1, do_stat}, {"mtime", 1, do_mtime}, {"cat", 1, do_cat}, {"put", 2, do_put}, {"list", 1, do_list},
    {"map", 2, do_map}, {"load", 3, do_load}, {"store", 3, do_store}, {"lock", 4, do_lock}, {"getlk", 4, do_getlk},
    {"flock", 2, do_flock}, {"cd", 1, do_cd},
};

static int run(const char *command) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)0);
        _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int obey(char *line) {
    if (!strncmp(line, "run ", 4)) return run(line + 4);
    char *words[8] = {0};
    int count = 0;
    for (char *word = strtok(line, " "); word && count < 8; word = strtok(0, " ")) words[count++] = word;
    for (size_t i = 0; count && i < sizeof WORDS / sizeof *WORDS; i++)
        if (!strcmp(words[0], WORDS[i].name) && count == WORDS[i].count + 1) return WORDS[i].perform(words);
    printf("no such word, or not so many: %s\n", count ? words[0] : "");
    return 2;
}

static int serve(const char *channel) {
    static char line[65536];
    char path[4096];
    for (int number = 1;; number++) {
        snprintf(path, sizeof path, "%s/ask-%d", channel, number);
        int fd;
        /* Ends if the parent has ended. */
        while ((fd = open(path, O_RDONLY)) < 0) {
            if (getppid() == 1) return 3;
            nap(2000);
        }
        ssize_t len = read(fd, line, sizeof line - 1);
        close(fd);
        line[len < 0 ? 0 : len] = 0;
        if (!strcmp(line, "end")) return 0;
        int code = obey(line);
        printf(">%d %d\n", number, code);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    setenv("guest_program", argv[0], 1);
    umask(022);
    if (argc == 3 && !strcmp(argv[1], "serve")) return serve(argv[2]);
    return argc > 1 ? work(argc - 1, argv + 1) : 2;
}
