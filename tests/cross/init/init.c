/* PID 1 of a test image: loads the modules that /etc/modules names, says what it runs on, and ends the machine. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static struct utsname self;

/* A module by its path below /lib/modules/RELEASE. One that is loaded already is no error. */
static void insert(const char *path)
{
    char whole[512];
    snprintf(whole, sizeof whole, "/lib/modules/%s/%s", self.release, path);
    int file = open(whole, O_RDONLY);
    if (file < 0 || (syscall(SYS_finit_module, file, "", 0) != 0 && errno != EEXIST))
        printf("cannot load %s: %s\n", whole, strerror(errno));
    if (file >= 0)
        close(file);
}

/* Loads a module after what modules.dep says it needs: `PATH: NEEDED…`, the first needed being the last to load. */
static void load(const char *name)
{
    char path[256], line[4096], end[128];
    snprintf(path, sizeof path, "/lib/modules/%s/modules.dep", self.release);
    snprintf(end, sizeof end, "/%s.ko", name);
    FILE *deps = fopen(path, "r");
    while (deps && fgets(line, sizeof line, deps)) {
        char *words[64], *rest = line, *word;
        int count = 0;
        while ((word = strsep(&rest, ": \n")) != NULL)
            if (*word && count < 64)
                words[count++] = word;
        size_t length = count ? strlen(words[0]) : 0;
        if (length < strlen(end) || strcmp(words[0] + length - strlen(end), end) != 0)
            continue;
        while (count-- > 0)
            insert(words[count]);
        break;
    }
    if (deps)
        fclose(deps);
}

int main(void)
{
    char line[256];
    mount("proc", "/proc", "proc", 0, NULL);
    uname(&self);
    FILE *list = fopen("/etc/modules", "r");
    while (list && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        load(line);
    }
    FILE *loaded = fopen("/proc/modules", "r");
    while (loaded && fgets(line, sizeof line, loaded))
        printf("module %s", line);
    if (access("/bin/hello", X_OK) == 0) {
        pid_t child = fork();
        if (child == 0) {
            execl("/bin/hello", "hello", NULL);
            _exit(127);
        }
        int status;
        waitpid(child, &status, 0);
        printf("hello ended with %d\n", status);
    }
    printf("MOSBUILD-CROSS-READY %s %s, compiled for %s\n", self.machine, self.release, ARCH);
    fflush(stdout);
    reboot(RB_POWER_OFF);
    return 1;
}
