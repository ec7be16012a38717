/*
 * Reports the browser's time zone to the server by a cookie. Pages show times in it, unless the user has chosen a zone.
 *
 *     <script src="zone.js" data-zone="UTC" defer></script> on a page that shows times in that zone for lack of a better one
 *
 * Such a page is loaded once more when the server learns another zone.
 */
{
  const NAME = "fmv_zone";
  const shown = document.currentScript.dataset.zone;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const reported = () => document.cookie.split("; ").includes(`${NAME}=${zone}`);

  if (zone && !reported()) {
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `${NAME}=${zone}; Path=/admin/; Max-Age=31536000; SameSite=Lax${secure}`;
    if (shown && shown !== zone && reported()) location.reload();
  }
}
