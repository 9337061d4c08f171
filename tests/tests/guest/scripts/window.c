/* Works on a mapped file in the guest: the first argument selects the work, the others its objects.
   After the calls that map the file it uses only loads and stores. It prints errors as numbers,
   which the test compares. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static void fail(const char *what) {
    printf("%s: errno %d\n", what, errno);
    exit(1);
}

static uint64_t mix(uint64_t sum, uint64_t word) { return (sum ^ word) * 0x100000001b3ull; }

static volatile uint64_t *map(const char *path, int flags, int protection, size_t *len) {
    int fd = open(path, flags);
    if (fd < 0) fail("open");
    struct stat st;
    if (fstat(fd, &st)) fail("stat");
    *len = st.st_size;
    void *at = mmap(0, *len, protection, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) fail("mmap");
    close(fd);
    return at;
}

/* First word of each page, with a stride that visits all pages, so that a small window is used up.
   */
static uint64_t sum_pages(volatile uint64_t *words, size_t len, size_t stride) {
    uint64_t sum = 0xcbf29ce484222325ull;
    size_t pages = len / PAGE;
    for (size_t first = 0; first < stride; first++)
        for (size_t page = first; page < pages; page += stride) sum = mix(sum, words[page * PAGE / 8]);
    return sum;
}

int main(int argc, char **argv) {
    size_t len;
    if (argc < 3) return 2;
    const char *word = argv[1], *path = argv[2];
    if (!strcmp(word, "is-dax")) {
        struct statx st;
        if (statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &st)) fail("statx");
        printf("%s\n", st.stx_attributes & 0x200000 ? "dax" : "no dax");
    } else if (!strcmp(word, "sum")) {
        volatile uint64_t *words = map(path, O_RDONLY, PROT_READ, &len);
        printf("%016llx\n", (unsigned long long)sum_pages(words, len, atoi(argv[3])));
    } else if (!strcmp(word, "stamp")) {
        /* Stores one number in the second word of each page, and syncs it. */
        volatile uint64_t *words = map(path, O_RDWR, PROT_READ | PROT_WRITE, &len);
        for (size_t at = 0; at < len; at += PAGE) words[at / 8 + 1] = strtoull(argv[3], 0, 0) + at;
        int fd = open(path, O_RDWR);
        if (fsync(fd)) fail("fsync");
        printf("stamped\n");
    } else if (!strcmp(word, "answer") || !strcmp(word, "ask")) {
        /* Two of these, in two guests, count up in turns in one page, without a system call. */
        int asks = !strcmp(word, "ask");
        volatile uint64_t *words = map(path, O_RDWR, PROT_READ | PROT_WRITE, &len);
        volatile uint64_t *mine = words + (asks ? 64 : 128), *theirs = words + (asks ? 128 : 64);
        uint64_t turns = strtoull(argv[3], 0, 0);
        struct timespec began, ended;
        /* Touch the page before the time is measured. */
        *mine = 0;
        printf("ready\n");
        fflush(stdout);
        while (*theirs == ~0ull) {}
        clock_gettime(CLOCK_MONOTONIC, &began);
        for (uint64_t turn = 1; turn <= turns; turn++) {
            if (asks) {
                *mine = turn;
                while (*theirs != turn) {}
            } else {
                while (*theirs != turn) {}
                *mine = turn;
            }
        }
        clock_gettime(CLOCK_MONOTONIC, &ended);
        double seconds = (ended.tv_sec - began.tv_sec) + (ended.tv_nsec - began.tv_nsec) / 1e9;
        printf("%llu turns, %.1f us each\n", (unsigned long long)turns, seconds / turns * 1e6);
    } else if (!strcmp(word, "cut")) {
        /* Loads, truncates the file, extends it to its old length, and loads zeros. */
        volatile uint64_t *words = map(path, O_RDWR, PROT_READ | PROT_WRITE, &len);
        uint64_t before = words[len / 8 - PAGE / 8];
        if (truncate(path, len / 2) || truncate(path, len)) fail("truncate");
        printf("%llu then %llu\n", (unsigned long long)before, (unsigned long long)words[len / 8 - PAGE / 8]);
    } else if (!strcmp(word, "store")) {
        /* Makes one store, however the file can be opened. */
        volatile uint64_t *words = map(path, O_RDWR, PROT_READ | PROT_WRITE, &len);
        *words = 0x676f74636861;
        printf("stored\n");
    } else if (!strcmp(word, "store-physical")) {
        /* Stores into physical memory, as a guest with a hostile kernel can. PATH is the address.
           */
        int fd = open("/dev/mem", O_RDWR | O_SYNC);
        if (fd < 0) fail("open");
        volatile uint64_t *words = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, strtoull(path, 0, 0));
        if (words == MAP_FAILED) fail("mmap");
        *words = 0x676f74636861;
        printf("stored, and found %llx\n", (unsigned long long)*words);
    } else {
        return 2;
    }
    return 0;
}
