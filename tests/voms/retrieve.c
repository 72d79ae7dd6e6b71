/* Verifies a proxy file with libvomsapi and prints what it proves: "vo NAME", "fqan TEXT", "uri HOST:PORT". */

#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>
#include <voms/voms_apic.h>

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  FILE *file = fopen(argv[1], "r");
  if (!file) return 2;
  X509 *leaf = PEM_read_X509(file, NULL, NULL, NULL);
  STACK_OF(X509) *chain = sk_X509_new_null();
  for (X509 *next; (next = PEM_read_X509(file, NULL, NULL, NULL)) != NULL;) sk_X509_push(chain, next);
  fclose(file);
  struct vomsdata *data = VOMS_Init(argv[2], argv[3]);
  int error = 0;
  if (!data || !VOMS_Retrieve(leaf, chain, RECURSE_CHAIN, data, &error)) {
    char *message = VOMS_ErrorMessage(data, error, NULL, 0);
    printf("error %d %s\n", error, message ? message : "");
    return 1;
  }
  for (struct voms **one = data->data; *one; one++) {
    printf("vo %s\nuri %s\n", (*one)->voname, (*one)->uri);
    for (char **fqan = (*one)->fqan; *fqan; fqan++) printf("fqan %s\n", *fqan);
  }
  return 0;
}
